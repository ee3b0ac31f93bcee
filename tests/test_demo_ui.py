"""The demo page: which models it offers, what it shows of an image, and that it asks nobody but this machine."""

import signal
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from browser import Watched, artifact, open_browser
from PIL import Image
from test_models_backbones import tiny
from test_models_segmenter import LABELS

from hfseg.errors import ConfigError, DataError
from hfseg.labels import LabelSpace
from hfseg.models import save_model
from hfseg.recipes import demo
from hfseg.recipes.demo.models import KEPT, DemoModels, find_models
from hfseg.viz import areas_html

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: the model of one says the second class of everything, that of the other the third."""
    folder = tmp_path_factory.mktemp("runs")
    for place, name in enumerate(("second", "third"), start=1):
        torch.manual_seed(0)
        segmenter = tiny("convnextv2").build(LABELS)
        with torch.no_grad():
            segmenter.hf.decode_head.classifier.bias[place] += 50
        save_model(segmenter, LABELS, folder / "study" / name / "best-miou")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(path)
    return path


def test_runs_are_found_below_a_folder_and_a_run_or_model_by_itself(runs, tmp_path):
    assert set(find_models(runs)) == {"study/second", "study/third"}
    second = runs / "study" / "second"
    assert find_models(second) == {"second": second}
    assert find_models(second / "best-miou") == {"best-miou": second / "best-miou"}
    with pytest.raises(DataError, match="has no run with a `best-miou`"):
        find_models(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_models(tmp_path / "nowhere")


def test_an_image_is_segmented_and_explained(runs, photo):
    model = DemoModels(runs, CPU).open("study/second")
    view = model.look(photo)
    assert view.overlay.size == (96, 64)
    assert view.classes == (LABELS.names[1], LABELS.names[0], LABELS.names[2])
    assert "100.00 %" in view.areas
    assert "6,144" in view.areas
    explained = np.asarray(model.explain(photo, LABELS.names[1], region="predicted"))
    whole = np.asarray(model.explain(photo, LABELS.names[2], region="image"))
    assert min(explained.shape[:2]) > 300
    assert explained.shape != whole.shape or (explained != whole).any()


def test_a_model_is_opened_once_and_few_stay(runs):
    models = DemoModels(runs, CPU)
    assert models.open("study/second") is models.open("study/second")
    assert models.open.cache_info().maxsize == KEPT


def test_areas_are_counted_and_names_escaped():
    space = LabelSpace.from_names(["<b>", "sky"])
    html = areas_html(np.array([[0, 0, 0, 1], [0, 0, 255, 255]]), space)
    assert html.index("&lt;b&gt;") < html.index("sky") < html.index("ignore")
    assert [text in html for text in ("62.50 %", "12.50 %", "25.00 %", "4 × 2 px", "<b>")] == [*[True] * 4, False]


def test_without_gradio_the_demo_says_what_to_install(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match="needs `gradio`") as caught:
        demo.run(runs, progress=print)
    assert caught.value.hint == "pip install 'hfseg[ui]'"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="no Gradio on this machine")
def test_a_picture_is_dropped_into_the_page_and_another_run_is_picked(runs, photo):
    command = [sys.executable, "-m", "hfseg", "demo", str(runs), "--cpu", "--port", "0", "--no-browser"]
    with open_browser() as browser, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        try:
            said = next(line for line in served.stderr if line.startswith("http"))
            assert "offers 2 models" in said
            use(Watched(browser.new_context()), said.split()[0], photo)
        finally:
            served.send_signal(signal.SIGINT)
            assert served.stderr.read().splitlines()[-1:] == ["the demo is no longer served"]
    assert served.returncode == 0


def use(watched, url, photo):
    view = watched.page
    view.goto(url)
    view.get_by_label("Run").wait_for()
    assert url.startswith("http://127.0.0.1:")
    view.locator("input[type=file]").first.set_input_files(photo)
    rows = view.locator("table.areas tbody th")
    rows.get_by_text(named(view)).wait_for()
    view.locator("#seen img").wait_for()
    view.locator("#cam img").wait_for()
    before = named(view)
    view.get_by_label("Run").click()
    view.get_by_role("option").filter(has_not_text=view.get_by_label("Run").input_value()).first.click()
    rows.get_by_text(LABELS.names[1] if before == LABELS.names[2] else LABELS.names[2]).wait_for()
    view.locator("#cam img").wait_for()
    view.screenshot(path=artifact("demo.png"), full_page=True)
    assert [asked for asked in watched.requests if not asked.startswith((url, "data:", "blob:"))] == []


def named(view):
    """The class that the model of the picked run says of everything."""
    return LABELS.names[["study/second", "study/third"].index(view.get_by_label("Run").input_value()) + 1]
