"""`hfseg data prepare`: data sets written in a form that any number of machines can read."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hfseg.cli.app import app
from hfseg.cli.flags import FLAG_NAMES, data_flags, given
from hfseg.cli.options import DATA, RUN, DataOptions, SettingOptions, option, spread

data = typer.Typer(help="Prepare data sets.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.command(epilog="Example: hfseg data prepare cityscapes --data-dir Cityscapes --output shards")
@spread
def prepare(
    dataset: Annotated[str, typer.Argument(help="folder, ade20k, cityscapes, hub:NAME ...: as --dataset elsewhere.")],
    output: Annotated[Path, option("--output", "-o", panel=RUN, help="New folder for the shards.")],
    run: SettingOptions,
    data_dir: Annotated[
        Path | None, option(panel=DATA, help="Folder or zip of the data set, or of images and masks.")
    ] = None,
    classes: Annotated[str | None, option(panel=DATA, help="Class names: a,b,c or a file that lists them.")] = None,
    parts: Annotated[str | None, option(panel=DATA, help="Parts that are written (default: train,validation)")] = None,
    shard_mb: Annotated[int | None, option(panel=DATA, help="Size of a shard in 10^6 bytes (default: 256)")] = None,
    min_shards: Annotated[
        int | None,
        option(panel=DATA, help="A multiple of this many shards, such as the processes to come (default: 1)"),
    ] = None,
    workers: Annotated[int | None, option(panel=DATA, help="Threads that read ahead (default: 2)")] = None,
) -> None:
    """Write a data set as Parquet shards with checksums, which `--dataset shards` trains on and `datasets` streams."""
    from hfseg.recipes import prepare as recipe

    flags = {
        **data_flags(DataOptions(dataset=dataset, data_dir=data_dir, classes=classes), default=None),
        "output": str(output),
        "parts": None if parts is None else [part.strip() for part in parts.split(",")],
        "shard_mb": shard_mb,
        "min_shards": min_shards,
        "workers": workers,
    }
    result = recipe.run(recipe.PrepareConfig.load(flags=given(flags), sets=run.sets or (), flag_names=FLAG_NAMES))
    typer.echo(json.dumps(recipe.to_json(result)) if run.as_json else recipe.to_text(result))
