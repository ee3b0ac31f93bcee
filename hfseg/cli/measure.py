"""`hfseg evaluate` and `hfseg predict`: what a model scores, and what it sees."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hfseg.cli.app import app, print_result, say
from hfseg.cli.flags import FLAG_NAMES, Flags, data_flags, given, protocol_flags
from hfseg.cli.options import (
    DATA,
    INFERENCE,
    RUN,
    VIDEO,
    DataOptions,
    ProtocolOptions,
    RunOptions,
    option,
    spread,
)
from hfseg.errors import ConfigError


@app.command(epilog="Example: hfseg evaluate runs/demo --split test --protocol slide --flip")
@spread
def evaluate(
    data: DataOptions,
    protocol: ProtocolOptions,
    run: RunOptions,
    model: Annotated[str | None, typer.Argument(help="A run folder, a model folder, or a Hub id.")] = None,
    predictions: Annotated[
        Path | None,
        option(panel=DATA, help="Score the index masks in this folder, whatever made them, in the place of a model."),
    ] = None,
    split: Annotated[str | None, option(panel=DATA, help="train, validation or test (default: validation)")] = None,
    batch_size: Annotated[int | None, option(panel=INFERENCE, help="Images of one size at once (default: 4)")] = None,
    corruptions: Annotated[
        str | None, option(panel=INFERENCE, help="Score under corrupted images too: all, or names joined by commas.")
    ] = None,
    against: Annotated[
        Path | None, option(panel=RUN, help="Compare with the evaluation in this folder, on the same images.")
    ] = None,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder for scores, counts and pictures.")
    ] = None,
) -> None:
    """Score a model on a whole data set: mIoU with its interval, accuracy, boundary IoU, and every class."""
    from hfseg.recipes import evaluate as recipe
    from hfseg.recipes.console import show_scores

    flags = {
        **data_flags(data, default="folder"),
        **_laid_over(model, protocol, run),
        "model": model,
        "predictions": None if predictions is None else str(predictions),
        "split": split,
        "loader.eval_batch_size": batch_size,
        "corruptions.names": recipe.corruption_names(corruptions),
        "against": None if against is None else str(against),
        "output": None if output is None else str(output),
        "runtime.cpu": run.cpu or None,
    }
    metrics = recipe.run(recipe.EvaluateConfig.load(flags=given(flags), sets=run.sets or (), flag_names=FLAG_NAMES))
    if metrics is not None:
        print_result(metrics, as_json=run.as_json, show=show_scores)


@dataclass(frozen=True)
class VideoOptions:
    """How clips are read, and what is written for them."""

    view: Annotated[
        str | None, option("--video-view", panel=VIDEO, help="side, overlay, mask or original (default: side)")
    ] = None
    every: Annotated[
        int | None, option(panel=VIDEO, metavar="N", help="Predict every Nth frame; each keeps its time (default: 1)")
    ] = None
    masks: Annotated[bool, option("--masks", panel=VIDEO, help="Write an index mask of each frame too.")] = False
    stdout: Annotated[
        bool,
        option("--stdout", panel=VIDEO, help="Write raw masks to the standard output: a byte a pixel, row by row."),
    ] = False
    as_video: Annotated[
        bool, option("--as-video", panel=VIDEO, help="Take a folder of images as the frames of one clip.")
    ] = False
    fps: Annotated[float | None, option(panel=VIDEO, help="Frames a second of such a folder (default: 25)")] = None


@app.command(epilog="Example: hfseg predict runs/demo photos/ 'more/*.jpg' clip.mp4 --output predictions")
@spread
def predict(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, videos, folders and globs.")],
    protocol: ProtocolOptions,
    video: VideoOptions,
    run: RunOptions,
    output: Annotated[
        Path | None,
        option("--output", "-o", panel=RUN, help="Folder for pictures and videos (default: predictions)"),
    ] = None,
    labels_dir: Annotated[Path | None, option(panel=DATA, help="Folder of masks with the images' names.")] = None,
    batch_size: Annotated[int | None, option(panel=INFERENCE, help="Images of one size at once (default: 1)")] = None,
    submission: Annotated[
        str | None,
        option(panel=RUN, help="Write masks for the server of ade20k or cityscapes, and a zip of them, not pictures."),
    ] = None,
) -> None:
    """Draw what a model sees: index masks, overlays, image beside prediction, and videos of videos."""
    from hfseg.recipes import predict as recipe
    from hfseg.recipes.predict.video import consistency_text

    if video.stdout and run.as_json:
        raise ConfigError("--stdout and --json both want the standard output", hint="leave one of them out")

    flags = {
        **_laid_over(model, protocol, run),
        "model": model,
        "inputs": inputs,
        "output": None if output is None else str(output),
        "labels_dir": None if labels_dir is None else str(labels_dir),
        "batch_size": batch_size,
        "submission": submission,
        "video.view": video.view,
        "video.every": video.every,
        "video.masks": video.masks or None,
        "video.stdout": video.stdout or None,
        "video.as_video": video.as_video or None,
        "video.fps": video.fps,
        "runtime.cpu": run.cpu or None,
    }
    result = recipe.run(
        recipe.PredictConfig.load(flags=given(flags), sets=run.sets or (), flag_names=FLAG_NAMES), progress=say
    )
    if run.as_json:
        said: dict[str, Any] = {"written": [str(path) for path in result.written], "skipped": list(result.skipped)}
        typer.echo(json.dumps(said | ({"clips": [clip.consistency for clip in result.clips]} if result.clips else {})))
    else:
        for path in result.written:
            typer.echo(path)
        if result.clips:
            typer.echo(f"\n{consistency_text(result.clips)}", err=video.stdout)
    if result.skipped:
        say(f"{len(result.skipped)} of the inputs could not be read and were skipped")
    if not result.is_complete:
        raise typer.Exit(1)


def _laid_over(model: str | None, options: ProtocolOptions, run: RunOptions) -> Flags:
    """What is said about the protocol, over the one that the model's run was validated under."""
    from hfseg.recipes.run import protocol_settings

    flags = given(protocol_flags(options))
    if not flags and not any(text.startswith("protocol.") for text in run.sets or ()):
        return {}
    return {**protocol_settings(model, options.protocol), **flags}
