"""The program that the commands are members of."""

import json
from typing import Annotated, Any

import typer

from hfseg import __version__

app = typer.Typer(
    name="hfseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def say(text: str) -> None:
    """Print a line to stderr."""
    typer.echo(text, err=True)


def print_result(result: Any, *, as_json: bool, show: Any) -> None:
    """Print a result to stdout: as JSON, or as `show` prints it."""
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hfseg {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From images and masks to a fine-tuned, measured, explained segmentation model on Hugging Face Transformers."""
