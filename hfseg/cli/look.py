"""`hfseg backbones` and `hfseg doctor`: what can be used, and what this machine has."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from hfseg.cli.app import app
from hfseg.cli.options import RUN, option

AsJson = Annotated[bool, option("--json", panel=RUN, help="Print the result as JSON.")]
Debug = Annotated[bool, option("--debug", panel=RUN, help="Show the traceback of an error.")]


@app.command(epilog="Example: hfseg backbones dinat-mini")
def backbones(
    name: Annotated[
        str | None, typer.Argument(help="One encoder to look at: alias, timm:NAME, Hub id or folder.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the encoders: which can be used, their strides and channels, and where their weights are."""
    from hfseg.recipes import backbones as recipe

    rows = recipe.run(name)
    typer.echo(json.dumps([asdict(row) for row in rows]) if as_json else recipe.to_text(rows))


@app.command(epilog="Example: hfseg doctor")
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what this machine has and lacks: libraries, devices, precisions, the Hub, disk and memory."""
    from hfseg.recipes import doctor as recipe

    facts = recipe.run()
    typer.echo(json.dumps(recipe.to_json(facts)) if as_json else recipe.to_text(facts))
    if not recipe.is_healthy(facts):
        raise typer.Exit(1)
