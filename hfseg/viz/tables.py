"""Scores and parameters as tables: for a terminal (rich), as plain text, and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from hfseg.viz.numbers import OK, count, freeze_state, parameter_totals, percent, score_word

SCORE_COLUMNS = ("class", "pixels", "predicted", "IoU", "accuracy", "state")
PARAMETER_COLUMNS = ("module", "parameters", "trainable", "state")
LEFT = {"class", "module", "state"}


def summary(metrics: Mapping[str, Any]) -> str:
    """Say the main numbers of `metrics.json` in one sentence, with those of a constant predictor beside them."""
    line = f"mIoU {percent(metrics['mean_iou'])}, mean accuracy {percent(metrics['mean_accuracy'])}, "
    line += f"pixel accuracy {percent(metrics['overall_accuracy'])}"
    baseline = metrics["baseline"]
    always = f"mIoU {percent(baseline['mean_iou'])}, pixel accuracy {percent(baseline['overall_accuracy'])}"
    return f"{line} (always `{baseline['class']}`: {always})"


def score_rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Write the cells of the per-class table, in the order of the classes."""
    return [
        (
            row["name"],
            count(row["label_pixels"]),
            count(row["predicted_pixels"]),
            score_word(row, "iou"),
            score_word(row, "accuracy"),
            row["state"],
        )
        for row in metrics["classes"]
    ]


def parameter_rows(parameters: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Write the cells of the parameter table; the last row is the sum."""
    total, trainable = parameter_totals(parameters)
    rows = [*((row["module"], row["total"], row["trainable"]) for row in parameters), ("all", total, trainable)]
    return [(name, count(of_all), count(of_it), freeze_state(of_all, of_it)) for name, of_all, of_it in rows]


def render_scores(metrics: Mapping[str, Any]) -> Table:
    """Make the per-class table for a terminal; `summary` is the sentence above it."""
    table = _table(SCORE_COLUMNS)
    for row, (name, *cells) in zip(metrics["classes"], score_rows(metrics), strict=True):
        red, green, blue = row["color"]
        swatch = Text.assemble(("■ ", f"rgb({red},{green},{blue})"), name)
        table.add_row(swatch, *(Text(cell) for cell in cells), style="" if row["state"] == OK else "dim")
    return table


def render_parameters(parameters: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of frozen and trainable parameters for a terminal; `parameter_summary` is its sentence."""
    table = _table(PARAMETER_COLUMNS)
    *rows, last = parameter_rows(parameters)
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells), style="dim" if cells[-1] == "frozen" else "")
    table.add_section()
    table.add_row(*(Text(cell, style="bold") for cell in last))
    return table


def scores_text(metrics: Mapping[str, Any]) -> str:
    """Write the per-class table as plain text, for files and pipes."""
    return _plain(SCORE_COLUMNS, score_rows(metrics))


def parameters_text(parameters: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of frozen and trainable parameters as plain text, for files and pipes."""
    return _plain(PARAMETER_COLUMNS, parameter_rows(parameters))


def parameter_summary(parameters: Sequence[Mapping[str, Any]]) -> str:
    """Say how many of the parameters are trained."""
    total, trainable = parameter_totals(parameters)
    share = f" ({percent(trainable / total)})" if total else ""
    return f"{count(trainable)} of {count(total)} parameters are trained{share}"


def scores_csv(metrics: Mapping[str, Any]) -> str:
    """Write the per-class table as CSV, scores in %, empty where a class has none and `state` says why."""
    rows = [
        (
            row["id"],
            row["name"],
            row["label_pixels"],
            row["predicted_pixels"],
            *("" if row[key] is None else f"{100 * row[key]:.4f}" for key in ("iou", "accuracy")),
            row["state"],
        )
        for row in metrics["classes"]
    ]
    return csv_text(
        ("id", "name", "label_pixels", "predicted_pixels", "iou_percent", "accuracy_percent", "state"), rows
    )


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


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    return table


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
