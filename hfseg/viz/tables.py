"""Scores and parameters as tables: for a terminal (rich), as plain text, and as CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from rich.table import Table
from rich.text import Text

from hfseg.viz.numbers import (
    OK,
    count,
    freeze_state,
    interval_words,
    level_words,
    parameter_totals,
    percent,
    points,
    protocol_words,
    score_word,
    span,
)

Columns = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""The cell of each column, by its title, as a function of a row."""

PARAMETER_COLUMNS = ("module", "parameters", "trainable", "state")
LEFT = {"class", "module", "state", "corruption", "member"}


def summary(metrics: Mapping[str, Any]) -> str:
    """Say the main numbers of `metrics.json` and their protocol, other definitions of them, and a constant predictor's.

    Each of the three has a line of its own.
    """
    interval = interval_words(metrics)
    lines = [
        f"mIoU {percent(metrics['mean_iou'])}{f' ({interval})' if interval else ''}, "
        f"mean accuracy {percent(metrics['mean_accuracy'])}, "
        f"pixel accuracy {percent(metrics['overall_accuracy'])}; {protocol_words(metrics)}"
    ]
    others = []
    if "mean_iou_over_images" in metrics:
        others.append(f"mIoU over images {percent(metrics['mean_iou_over_images'])}")
    if "boundary_iou" in metrics:
        others.append(f"boundary IoU {percent(metrics['boundary_iou'])} ({metrics['boundary_width']})")
    lines += [", ".join(others)] if others else []
    baseline = metrics["baseline"]
    always = f"mIoU {percent(baseline['mean_iou'])}, pixel accuracy {percent(baseline['overall_accuracy'])}"
    return "\n".join([*lines, f"always `{baseline['class']}`: {always}"])


def against_text(metrics: Mapping[str, Any]) -> str:
    """Say whether the model is better than the one it was compared with on the same images, and by how much."""
    against = metrics["against"]
    link = "from" if against["verdict"] == "not distinguishable" else "than"
    low, high = (points(end) for end in against["interval"])
    return (
        f"{against['verdict']} {link} `{against['model']}`: mIoU {points(against['difference'])} "
        f"({level_words(metrics)} {low} to {high}, the same images drawn for both); {protocol_words(metrics)}"
    )


def score_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Write the cells of the per-class table, in the order of the classes."""
    columns = _score_columns(metrics)
    return [tuple(cell(row) for cell in columns.values()) for row in metrics["classes"]]


def parameter_rows(parameters: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Write the cells of the parameter table; the last row is the sum."""
    total, trainable = parameter_totals(parameters)
    rows = [*((row["module"], row["total"], row["trainable"]) for row in parameters), ("all", total, trainable)]
    return [(name, count(of_all), count(of_it), freeze_state(of_all, of_it)) for name, of_all, of_it in rows]


def render_scores(metrics: Mapping[str, Any]) -> Table:
    """Make the per-class table for a terminal; `summary` stands below it."""
    table = rich_table(tuple(_score_columns(metrics)))
    for row, (name, *cells) in zip(metrics["classes"], score_rows(metrics), strict=True):
        red, green, blue = row["color"]
        swatch = Text.assemble(("■ ", f"rgb({red},{green},{blue})"), name)
        table.add_row(swatch, *(Text(cell) for cell in cells), style="" if row["state"] == OK else "dim")
    return table


def render_parameters(parameters: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of frozen and trainable parameters for a terminal; `parameter_summary` is its sentence."""
    table = rich_table(PARAMETER_COLUMNS)
    *rows, last = parameter_rows(parameters)
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells), style="dim" if cells[-1] == "frozen" else "")
    table.add_section()
    table.add_row(*(Text(cell, style="bold") for cell in last))
    return table


def scores_text(metrics: Mapping[str, Any]) -> str:
    """Write the per-class table as plain text, for files and pipes."""
    return plain_table(tuple(_score_columns(metrics)), score_rows(metrics))


def parameters_text(parameters: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of frozen and trainable parameters as plain text, for files and pipes."""
    return plain_table(PARAMETER_COLUMNS, parameter_rows(parameters))


def parameter_summary(parameters: Sequence[Mapping[str, Any]]) -> str:
    """Say how many of the parameters are trained."""
    total, trainable = parameter_totals(parameters)
    share = f" ({percent(trainable / total)})" if total else ""
    return f"{count(trainable)} of {count(total)} parameters are trained{share}"


def scores_csv(metrics: Mapping[str, Any]) -> str:
    """Write the per-class table as CSV, scores in %, empty where a class has none and `state` says why.

    The protocol stands in every row, so that rows of several files can be put together.
    """
    columns = _csv_columns(metrics)
    return csv_text(tuple(columns), [tuple(cell(row) for cell in columns.values()) for row in metrics["classes"]])


def confusion_csv(metrics: Mapping[str, Any]) -> str:
    """Write the confusion matrix in pixels as CSV: rows labels, columns predictions."""
    names = [row["name"] for row in metrics["classes"]]
    rows = [(name, *pixels) for name, pixels in zip(names, metrics["confusion"], strict=True)]
    return csv_text(("label / prediction", *names), rows)


def csv_text(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Write a table as CSV, quoted where needed."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def rich_table(columns: Sequence[str]) -> Table:
    """Make an empty table for a terminal: numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    return table


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as lines of plain text: numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _score_columns(metrics: Mapping[str, Any]) -> Columns:
    """Choose the columns for which `metrics.json` has numbers."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "class": lambda row: str(row["name"]),
        "pixels": lambda row: count(row["label_pixels"]),
        "predicted": lambda row: count(row["predicted_pixels"]),
        "IoU": lambda row: score_word(row, "iou"),
    }
    if "bootstrap" in metrics:
        columns[level_words(metrics)] = lambda row: _bare(row["iou_interval"])
    if "boundary_iou" in metrics:
        columns["boundary"] = lambda row: score_word(row, "boundary_iou")
    columns["accuracy"] = lambda row: score_word(row, "accuracy")
    columns["state"] = lambda row: str(row["state"])
    return columns


def _csv_columns(metrics: Mapping[str, Any]) -> Columns:
    columns: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        **{key: itemgetter(key) for key in ("id", "name", "label_pixels", "predicted_pixels")},
        "iou_percent": lambda row: _csv_share(row["iou"]),
    }
    if "bootstrap" in metrics:
        columns["iou_low_percent"] = lambda row: _csv_share((row["iou_interval"] or (None, None))[0])
        columns["iou_high_percent"] = lambda row: _csv_share((row["iou_interval"] or (None, None))[1])
    if "boundary_iou" in metrics:
        columns["boundary_iou_percent"] = lambda row: _csv_share(row["boundary_iou"])
    columns["accuracy_percent"] = lambda row: _csv_share(row["accuracy"])
    columns["state"] = itemgetter("state")
    columns["protocol"] = lambda row: protocol_words(metrics)
    return columns


def _csv_share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4f}"


def _bare(interval: Sequence[float] | None) -> str:
    """Write an interval without its unit, which its neighbour in the table has."""
    return "" if interval is None else span(interval).removesuffix(" %")
