"""`hfseg explain`: why a model sees what it sees."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hfseg.cli.app import app, say
from hfseg.cli.flags import FLAG_NAMES, given, source_flags
from hfseg.cli.options import DATA, RUN, VIDEO, RunOptions, SourceOptions, option, spread
from hfseg.errors import ConfigError

EXPLAIN = "Explanation"


@app.command(epilog="Example: hfseg explain runs/demo photos/ --class person --check")
@spread
def explain(
    data: SourceOptions,
    run: RunOptions,
    model: Annotated[
        str | None, typer.Argument(help="A run folder, a model folder, or a Hub id; an input with --backbone.")
    ] = None,
    inputs: Annotated[list[str] | None, typer.Argument(help="Images, videos, folders and globs.")] = None,
    kind: Annotated[str | None, option(panel=EXPLAIN, help="cam, attention or receptive-field (default: cam)")] = None,
    label: Annotated[
        str | None, option("--class", panel=EXPLAIN, help="Class by name or id (default: the largest predicted).")
    ] = None,
    region: Annotated[
        str | None,
        option(panel=EXPLAIN, help="predicted, image, a pixel X,Y or a box X,Y,X,Y (default: predicted)"),
    ] = None,
    layer: Annotated[
        str | None,
        option(
            panel=EXPLAIN, help="stage1 ..., or a module such as encoder.stages.3; of some kinds several, by commas."
        ),
    ] = None,
    method: Annotated[
        str | None, option(panel=EXPLAIN, help="gradcam, gradcam++, layercam or hirescam (default: gradcam)")
    ] = None,
    check: Annotated[
        bool, option("--check", panel=EXPLAIN, help="Measure whether the map is faithful: curves and JSON; minutes.")
    ] = False,
    point: Annotated[
        str | None, option(panel=EXPLAIN, help="Pixel X,Y from which attention looks (default: the middle).")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        option(panel=EXPLAIN, help="Encoder with random weights, for receptive fields; may be repeated."),
    ] = None,
    against: Annotated[
        list[str] | None, option(panel=EXPLAIN, help="Another model beside it, for receptive fields; may be repeated.")
    ] = None,
    split: Annotated[
        str | None,
        option(panel=DATA, help="Explain samples of train, validation or test, of the run's own data or --dataset."),
    ] = None,
    every: Annotated[int | None, option(panel=VIDEO, help="Explain each such frame of a clip (default: 1)")] = None,
    as_video: Annotated[
        bool, option("--as-video", panel=VIDEO, help="Take a folder of images as the frames of one clip.")
    ] = False,
    short_side: Annotated[
        int | None,
        option(panel=DATA, help="Bring images to this short side, in pixels (default: the run's own, else native)"),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "--output", "-o", panel=RUN, help="Folder for the pictures (default: explain/ in the run, or explanations)"
        ),
    ] = None,
) -> None:
    """Show why a model sees what it sees: class activation, attention heads, receptive fields."""
    from hfseg.recipes import explain as recipe

    found = None if kind is None else kind.replace("-", "_")
    paths = [*([model] if backbone and model else []), *(inputs or [])]
    flags = {
        "model": None if backbone else model,
        "inputs": paths or None,
        **source_flags(data, default="folder"),
        "split": split,
        "as_video": as_video or None,
        "output": None if output is None else str(output),
        "short_side": short_side,
        "explanation.kind": found,
        "explanation.label": label,
        "explanation.region": _region(region),
        "explanation.method": method,
        "explanation.check": check or None,
        "explanation.point": None if point is None else _pixels("--point", point, "a pixel X,Y", 2),
        "explanation.backbones": backbone,
        "explanation.against": against,
        "explanation.every": every,
        "runtime.cpu": run.cpu or None,
        **_layers(layer, found),
    }
    config = recipe.ExplainConfig.load(flags=given(flags), sets=run.sets or (), flag_names=FLAG_NAMES)
    result = recipe.run(config, progress=say)
    if run.as_json:
        typer.echo(json.dumps({"written": [str(path) for path in result.written], "skipped": list(result.skipped)}))
    else:
        for path in result.written:
            typer.echo(path)
    if result.skipped:
        say(f"{len(result.skipped)} of the inputs were skipped")
        raise typer.Exit(1)


def _layers(text: str | None, kind: str | None) -> dict[str, Any]:
    """The layers as the kind of explanation calls them: one layer, several, or the numbers of stages."""
    if text is None:
        return {}
    names = [name.strip() for name in text.split(",")]
    if kind == "receptive_field":
        return {"explanation.layers": names}
    if kind != "attention":
        return {"explanation.layer": text}
    numbers = [name.removeprefix("stage") for name in names]
    if not all(number.isdigit() for number in numbers):
        raise ConfigError(f"--layer `{text}`: attention is shown by stages", hint="--layer stage1,stage3")
    return {"explanation.stages": [int(number) for number in numbers]}


def _region(text: str | None) -> Any:
    if text is None or text in ("predicted", "image"):
        return text
    return _pixels("--region", text, "predicted, image, a pixel X,Y or a box X,Y,X,Y", 2, 4)


def _pixels(flag: str, text: str, expected: str, *counts: int) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in counts or not all(part.isdecimal() for part in parts):
        raise ConfigError(
            f"{flag} `{text}`: expected {expected}", hint="pixels are counted from 0, x to the right and y down"
        )
    return [int(part) for part in parts]
