"""`hfseg evaluate`, `hfseg predict` and `hfseg report`: what a model scores, what it sees, and a run's page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hfseg.cli.app import app, print_result, say
from hfseg.cli.flags import data_flags, given
from hfseg.cli.options import DATA, RUN, DataOptions, RunOptions, option, spread


@app.command(epilog="Example: hfseg evaluate runs/demo --split validation")
@spread
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    data: DataOptions,
    run: RunOptions,
    split: Annotated[str | None, option(panel=DATA, help="train, validation or test (default: validation)")] = None,
    short_side: Annotated[
        int | None, option(panel=DATA, help="Bring images to this short side, in pixels (default: native size)")
    ] = None,
    batch_size: Annotated[int | None, option(panel=DATA, help="Images of one size at once (default: 4)")] = None,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder for metrics.json and metrics.csv.")
    ] = None,
) -> None:
    """Score a model on a whole data set: mIoU, mean and pixel accuracy, and every class."""
    from hfseg.recipes import evaluate as recipe
    from hfseg.recipes.console import show_scores

    flags = {
        **data_flags(data, default="folder"),
        "model": model,
        "split": split,
        "short_side": short_side,
        "loader.eval_batch_size": batch_size,
        "output": None if output is None else str(output),
        "runtime.cpu": run.cpu or None,
    }
    metrics = recipe.run(recipe.EvaluateConfig.load(flags=given(flags), sets=run.sets or ()))
    if metrics is not None:
        print_result(metrics, as_json=run.as_json, show=show_scores)


@app.command(epilog="Example: hfseg predict runs/demo photos/ 'more/*.jpg' --output predictions")
@spread
def predict(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, folders and globs.")],
    run: RunOptions,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder for the pictures (default: predictions)")
    ] = None,
    labels_dir: Annotated[Path | None, option(panel=DATA, help="Folder of masks with the images' names.")] = None,
    short_side: Annotated[
        int | None, option(panel=DATA, help="Bring images to this short side, in pixels (default: native size)")
    ] = None,
    batch_size: Annotated[int | None, option(panel=DATA, help="Images of one size at once (default: 1)")] = None,
) -> None:
    """Draw what a model sees: index masks, overlays, and image beside prediction."""
    from hfseg.recipes import predict as recipe

    flags = {
        "model": model,
        "inputs": inputs,
        "output": None if output is None else str(output),
        "labels_dir": None if labels_dir is None else str(labels_dir),
        "short_side": short_side,
        "batch_size": batch_size,
        "runtime.cpu": run.cpu or None,
    }
    result = recipe.run(recipe.PredictConfig.load(flags=given(flags), sets=run.sets or ()), progress=say)
    if run.as_json:
        typer.echo(json.dumps({"written": [str(path) for path in result.written], "skipped": list(result.skipped)}))
    else:
        for path in result.written:
            typer.echo(path)
    if result.skipped:
        say(f"{len(result.skipped)} of the inputs could not be read and were skipped")
        raise typer.Exit(1)


@app.command(epilog="Example: hfseg report runs/demo")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Annotated[bool, option("--debug", panel=RUN, help="Show the traceback of an error.")] = False,
) -> None:
    """Rebuild a run's page from its folder."""
    from hfseg.recipes import report as recipe

    typer.echo(recipe.run(run))
