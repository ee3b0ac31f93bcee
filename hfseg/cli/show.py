"""`hfseg report` and `hfseg demo`: a run's page, and a model to play with, on this machine alone."""

from pathlib import Path
from typing import Annotated

import typer

from hfseg.cli.app import app, say
from hfseg.cli.options import RUN, option
from hfseg.errors import ConfigError

SERVER = "Server"
Port = Annotated[
    int | None,
    option(panel=SERVER, min=0, max=65535, help="Port of 127.0.0.1; 0 is any free one."),
]
NoBrowser = Annotated[bool, option("--no-browser", panel=SERVER, help="Print the address, and open nothing.")]
Debug = Annotated[bool, option("--debug", panel=RUN, help="Show the traceback of an error.")]


@app.command(epilog="Example: hfseg report runs/demo --serve")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    serve: Annotated[
        bool, option("--serve", panel=SERVER, help="Show the page to this machine, live while the run is under way.")
    ] = False,
    port: Port = None,
    no_browser: NoBrowser = False,
    debug: Debug = False,
) -> None:
    """Rebuild a run's page from its folder, or serve it while the run goes on."""
    if serve:
        from hfseg.recipes import serve as server

        server.run(run, port=server.PORT if port is None else port, browser=not no_browser, progress=say)
        return
    idle = [flag for flag, given in (("--port", port is not None), ("--no-browser", no_browser)) if given]
    if idle:
        raise ConfigError(f"{idle[0]} has no effect without --serve", hint="hfseg report RUN --serve")
    from hfseg.recipes import report as recipe

    typer.echo(recipe.run(run))


@app.command(epilog="Example: hfseg demo runs")
def demo(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, a run, or a model folder.")] = Path("runs"),
    port: Port = None,
    no_browser: NoBrowser = False,
    cpu: Annotated[bool, option("--cpu", panel=RUN, help="Compute on the CPU although there is a GPU.")] = False,
    debug: Debug = False,
) -> None:
    """Drop an image, pick a run, see masks, areas and class activation, in this machine's browser."""
    from hfseg.recipes import demo as recipe

    chosen = recipe.PORT if port is None else port
    recipe.run(folder, port=chosen, browser=not no_browser, cpu=cpu, progress=say)
