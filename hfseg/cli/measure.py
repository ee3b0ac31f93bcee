"""`hfseg evaluate`, `hfseg predict` and `hfseg report`: what a model scores, what it sees, and a run's page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hfseg.cli.app import app, print_result, say
from hfseg.cli.flags import FLAG_NAMES, Flags, data_flags, given, protocol_flags
from hfseg.cli.options import DATA, INFERENCE, RUN, DataOptions, ProtocolOptions, RunOptions, option, spread


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


@app.command(epilog="Example: hfseg predict runs/demo photos/ 'more/*.jpg' --output predictions")
@spread
def predict(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, folders and globs.")],
    protocol: ProtocolOptions,
    run: RunOptions,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder for the pictures (default: predictions)")
    ] = None,
    labels_dir: Annotated[Path | None, option(panel=DATA, help="Folder of masks with the images' names.")] = None,
    batch_size: Annotated[int | None, option(panel=INFERENCE, help="Images of one size at once (default: 1)")] = None,
    submission: Annotated[
        str | None,
        option(panel=RUN, help="Write masks for the server of ade20k or cityscapes, and a zip of them, not pictures."),
    ] = None,
) -> None:
    """Draw what a model sees: index masks, overlays, and image beside prediction."""
    from hfseg.recipes import predict as recipe

    flags = {
        **_laid_over(model, protocol, run),
        "model": model,
        "inputs": inputs,
        "output": None if output is None else str(output),
        "labels_dir": None if labels_dir is None else str(labels_dir),
        "batch_size": batch_size,
        "submission": submission,
        "runtime.cpu": run.cpu or None,
    }
    result = recipe.run(
        recipe.PredictConfig.load(flags=given(flags), sets=run.sets or (), flag_names=FLAG_NAMES), progress=say
    )
    if run.as_json:
        typer.echo(json.dumps({"written": [str(path) for path in result.written], "skipped": list(result.skipped)}))
    else:
        for path in result.written:
            typer.echo(path)
    if result.skipped:
        say(f"{len(result.skipped)} of the inputs could not be read and were skipped")
        raise typer.Exit(1)


def _laid_over(model: str | None, options: ProtocolOptions, run: RunOptions) -> Flags:
    """What is said about the protocol, over the one that the model's run was validated under."""
    from hfseg.recipes.run import protocol_settings

    flags = given(protocol_flags(options))
    if not flags and not any(text.startswith("protocol.") for text in run.sets or ()):
        return {}
    return {**protocol_settings(model, options.protocol), **flags}


@app.command(epilog="Example: hfseg report runs/demo")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Annotated[bool, option("--debug", panel=RUN, help="Show the traceback of an error.")] = False,
) -> None:
    """Rebuild a run's page from its folder."""
    from hfseg.recipes import report as recipe

    typer.echo(recipe.run(run))
