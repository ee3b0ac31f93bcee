"""`hfseg demo`: drop an image, pick a run, see masks, areas and what speaks for a class, in this machine's browser."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from hfseg.engine.runtime import DeviceConfig
from hfseg.errors import ConfigError, HfsegError
from hfseg.recipes.demo.models import DemoModels
from hfseg.recipes.ports import HOST, find_port
from hfseg.viz import TEMPLATES

PORT = 8322
MAX_UPLOAD = "100mb"
REGIONS: dict[str, Literal["predicted", "image"]] = {"its predicted pixels": "predicted", "the whole image": "image"}
FONTS = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
"""The reader's own: Gradio's would be asked for elsewhere."""
PICTURE: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["download", "fullscreen"]}
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}
"""Explaining hooks into the model, so that nothing else may run in it."""


def require_gradio() -> Any:
    """Import Gradio, without its reports of use.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise ConfigError("the demo needs `gradio`, which is not installed", hint="pip install 'hfseg[ui]'") from None
    return gradio


def run(
    folder: Path, *, port: int = PORT, browser: bool = True, cpu: bool = False, progress: Callable[[str], None]
) -> None:
    """Serve the demo page of the runs in `folder` until Ctrl-C; `progress` is told where it is.

    Pictures that people drop are kept in a temporary folder, and deleted at the end.

    Raises:
        ConfigError: Gradio is not installed, or the port cannot be had.
        DataError: there is no run in the folder.
    """
    require_gradio()
    models = DemoModels(folder, DeviceConfig(cpu=cpu).start().device)
    free_port = find_port(port)
    with tempfile.TemporaryDirectory(prefix="hfseg-demo-") as kept:
        page = open_page(models, free_port, uploads=Path(kept), browser=browser)
        progress(f"http://{HOST}:{free_port}/ offers {len(models.paths)} models of `{folder}`; Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            progress("the demo is no longer served")
        finally:
            page.close(verbose=False)


def open_page(models: DemoModels, port: int, *, uploads: Path, browser: bool) -> Any:
    """Start serving the page to this machine, in threads of its own; `close` ends it."""
    gradio = require_gradio()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    page = build_page(models)
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=browser,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        theme=gradio.themes.Base(font=FONTS, font_mono=MONO),
        css=(TEMPLATES / "demo.css").read_text(encoding="utf-8"),
    )
    return page


def build_page(models: DemoModels) -> Any:
    """Lay out the page, and say what happens when something in it changes."""
    gradio = require_gradio()
    names = list(models.paths)

    def told(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except HfsegError as error:
            raise gradio.Error(error.message) from None

    def look(name: str, path: str | None) -> tuple[Any, ...]:
        if path is None:
            return None, "", gradio.update(choices=[], value=None)
        view = told(lambda: models.open(name).look(Path(path)))
        return view.overlay, view.areas, gradio.update(choices=list(view.classes), value=view.classes[0])

    def explain(name: str, path: str | None, label: str | None, where: str) -> Any:
        if path is None or label is None:
            return None
        return told(lambda: models.open(name).explain(Path(path), label, region=REGIONS[where]))

    with gradio.Blocks(title="hfseg demo", analytics_enabled=False) as page:
        gradio.Markdown("## What does the model see?")
        with gradio.Row():
            with gradio.Column():
                model = gradio.Dropdown(names, value=names[0], label="Run")
                image = gradio.Image(type="filepath", sources=["upload", "clipboard"], label="Image", height=380)
            seen = gradio.Image(label="Prediction", height=470, elem_id="seen", **PICTURE)
        with gradio.Row():
            areas = gradio.HTML()
            with gradio.Column():
                with gradio.Row():
                    label = gradio.Dropdown([], label="What speaks for the class")
                    where = gradio.Radio(list(REGIONS), value=next(iter(REGIONS)), label="over")
                cam = gradio.Image(show_label=False, elem_id="cam", **PICTURE)  # the picture has its title in it
        shown = {"fn": look, "inputs": [model, image], "outputs": [seen, areas, label], **ONE_AT_A_TIME}
        why = {"fn": explain, "inputs": [model, image, label, where], "outputs": cam, **ONE_AT_A_TIME}
        gradio.on([model.change, image.change], **shown).success(**why)
        gradio.on([label.input, where.change], **why)
    return page
