"""`hfseg finetune`, and `hfseg check` and `hfseg lr`, which take the same settings and leave no model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hfseg.cli.app import app, print_result, say
from hfseg.cli.flags import FLAG_NAMES, given, recipe_path, training_flags
from hfseg.cli.options import RUN, TRAIN, DataOptions, RunOptions, TrainingOptions, option, spread
from hfseg.errors import ConfigError


@app.command(epilog="Example: hfseg finetune --dataset folder --data-dir my-images --backbone convnextv2 --epochs 50")
@spread
def finetune(
    data: DataOptions,
    options: TrainingOptions,
    run: RunOptions,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder of the run (default: runs/DATASET-MODEL)")
    ] = None,
    resume: Annotated[bool, option("--resume", panel=RUN, help="Go on with the run in --output.")] = False,
    replay: Annotated[
        Path | None,
        option("--replay", panel=RUN, help="Repeat the bad step that a run left in RUN/nan/step-N."),
    ] = None,
) -> None:
    """Train a segmentation model; without a data set, on the demo images that come with the package."""
    if replay is not None:
        from hfseg.recipes import replay as replaying

        typer.echo(replaying.run(replay).to_text())
        return
    flags = training_flags(options, data, run)
    if output is not None:
        flags["output"] = str(output)
    yaml_path = recipe_path(options.config, flags, resumed=output if resume else None)

    from hfseg.recipes import finetune as recipe
    from hfseg.recipes.console import show_scores
    from hfseg.recipes.run import FinetuneConfig, free_output

    settings = FinetuneConfig.load(yaml_path=yaml_path, flags=flags, sets=run.sets or (), flag_names=FLAG_NAMES)
    if resume and output is None:
        raise ConfigError("--resume needs to know which run: --output was not given", hint="--output RUN --resume")
    if output is None and "output" not in settings.model_fields_set:
        settings = settings.model_copy(update={"output": free_output(settings)})
    result = recipe.run(settings, resume=resume)
    if result is not None:
        print_result(result.metrics, as_json=run.as_json, show=show_scores)
        say(f"report: {result.report}")


@app.command(epilog="Example: hfseg check --data-dir my-images --backbone convnextv2 --output check")
@spread
def check(
    data: DataOptions,
    options: TrainingOptions,
    run: RunOptions,
    samples: Annotated[
        int | None, option(panel=RUN, help="Augmented samples that are drawn into --output (default: 12)")
    ] = None,
    output: Annotated[
        Path | None,
        option("--output", "-o", panel=RUN, help="New folder for check.json and samples.png; else nothing is written."),
    ] = None,
) -> None:
    """Look at data and settings before a run: every file, classes, duplicates, a real step, memory and time."""
    flags = training_flags(options, data, run)
    yaml_path = recipe_path(options.config, flags)

    from hfseg.recipes import check as recipe
    from hfseg.recipes.run import FinetuneConfig

    settings = FinetuneConfig.load(yaml_path=yaml_path, flags=flags, sets=run.sets or (), flag_names=FLAG_NAMES)
    result = recipe.run(settings, output=output, samples=recipe.SAMPLES if samples is None else samples)
    typer.echo(json.dumps(result.to_dict()) if run.as_json else result.to_text())
    if result.problems:
        raise typer.Exit(2)


@app.command(epilog="Example: hfseg lr --data-dir my-images --backbone convnextv2 --output lr.png")
@spread
def lr(
    data: DataOptions,
    options: TrainingOptions,
    run: RunOptions,
    first: Annotated[float | None, option(panel=TRAIN, help="Lowest learning rate (default: 1e-7)")] = None,
    last: Annotated[float | None, option(panel=TRAIN, help="Highest learning rate (default: 1)")] = None,
    tries: Annotated[
        int | None, option(panel=TRAIN, help="Steps from the lowest to the highest (default: 100)")
    ] = None,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="New PNG file for the picture; else nothing is written.")
    ] = None,
) -> None:
    """Find a learning rate: train with rising ones until the loss diverges, and throw the weights away."""
    flags = training_flags(options, data, run)
    yaml_path = recipe_path(options.config, flags)

    from hfseg.engine.lr_range import LrSpan
    from hfseg.recipes import lr as recipe
    from hfseg.recipes.run import FinetuneConfig

    settings = FinetuneConfig.load(yaml_path=yaml_path, flags=flags, sets=run.sets or (), flag_names=FLAG_NAMES)
    span = LrSpan.load(flags=given({"first": first, "last": last, "steps": tries}), flag_names={"steps": "--tries"})
    result = recipe.run(settings, output=output, span=span)
    if result is not None:
        typer.echo(json.dumps(result.to_dict()) if run.as_json else result.to_text())
