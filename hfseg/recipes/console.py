"""What recipes say to a person: tables on a terminal, plain text elsewhere."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hfseg.models import Segmenter
from hfseg.viz import (
    against_text,
    corruption_summary,
    corruptions_text,
    parameter_summary,
    parameters_text,
    render_corruptions,
    render_parameters,
    render_scores,
    scores_text,
    summary,
)


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr)  # noqa: T201


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function that shows how much is done, of how much: a bar on a terminal, one line elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        say(what)
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """Print the scores of `metrics.json` to stdout."""
    data = metrics["dataset"]
    _show_table(render_scores(metrics), scores_text(metrics))
    _show(f"\n{data['images']} images of {data['kind']}, {data['split']}: {summary(metrics)}")
    if "corruptions" in metrics:
        _show("")
        _show_table(render_corruptions(metrics), corruptions_text(metrics))
        _show(f"\n{corruption_summary(metrics)}")
    if "against" in metrics:
        _show(f"\n{against_text(metrics)}")


def _show_table(table: Table, text: str) -> None:
    """Print a table to stdout, in colours on a terminal."""
    if sys.stdout.isatty():
        Console().print(table)
    else:
        _show(text)


def _show(text: str) -> None:
    print(text)  # noqa: T201


def show_start(segmenter: Segmenter) -> None:
    """Say to stderr which weights are random, and which parameters nothing depends on."""
    counts = {name: parameter.numel() for name, parameter in segmenter.hf.named_parameters()}
    new = sum(counts[name] for name in segmenter.new_parameters)
    heads = sorted({name.split(".")[0] for name in segmenter.new_parameters})
    where = f" ({', '.join(heads)})" if heads else ""
    say(f"{new:,} of {sum(counts.values()):,} parameters start from random weights{where}")
    idle = sum(parameter.numel() for parameter in segmenter.parameters() if not parameter.requires_grad)
    if idle:
        say(f"{idle:,} parameters feed no output of this model and are not trained")


def show_parameters(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of frozen and trainable parameters to stderr."""
    if sys.stderr.isatty():
        Console(stderr=True).print(render_parameters(rows))
    else:
        say(parameters_text(rows))
    say(f"{parameter_summary(rows)}\n")
