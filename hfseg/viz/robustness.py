"""What corrupted pictures cost, as tables: a row for each corruption, a column for each severity."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from hfseg.viz.numbers import percent, protocol_words
from hfseg.viz.tables import csv_text, plain_table, rich_table


def corruption_summary(metrics: Mapping[str, Any]) -> str:
    """Say what corruption costs on average, and which one costs most."""
    *rows, mean = metrics["corruption_means"]
    if mean["drop"] is None:  # no labelled pixel, or a clean score of 0
        clean = f"mIoU {percent(metrics['mean_iou'])} clean"
        return f"what corruption costs is undefined: {clean}; {protocol_words(metrics)}"
    worst = min(rows, key=lambda row: row["mean_iou"])
    change = (
        f"{percent(mean['drop'])} of it is lost, most to {worst['name']} ({percent(worst['drop'])})"
        if mean["drop"] >= 0
        else f"a gain of {percent(-mean['drop'])}, as of models that have learned little; lowest under {worst['name']}"
    )
    return (
        f"mIoU {percent(mean['mean_iou'])} under {len(rows)} corruption{'s' if len(rows) != 1 else ''} on average, "
        f"{percent(metrics['mean_iou'])} clean: {change}; {protocol_words(metrics)}"
    )


def corruption_columns(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the columns of the table: every severity that was measured, their mean, and what is lost."""
    return ("corruption", *(f"severity {severity}" for severity in _severities(metrics)), "mean", "lost")


def corruption_cells(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Write the cells of the table, mIoU each; empty where nothing was measured; the last row is the mean."""
    found = {(row["name"], row["severity"]): percent(row["mean_iou"]) for row in metrics["corruptions"]}
    return [
        (
            row["name"],
            *(found.get((row["name"], severity), "") for severity in _severities(metrics)),
            percent(row["mean_iou"]),
            percent(row["drop"]),
        )
        for row in metrics["corruption_means"]
    ]


def render_corruptions(metrics: Mapping[str, Any]) -> Table:
    """Make the table for a terminal; `corruption_summary` is its sentence."""
    table = rich_table(corruption_columns(metrics))
    *rows, mean = corruption_cells(metrics)
    for cells in rows:
        table.add_row(*map(Text, cells))
    table.add_section()
    table.add_row(*(Text(cell, style="bold") for cell in mean))
    return table


def corruptions_text(metrics: Mapping[str, Any]) -> str:
    """Write the table as plain text, for files and pipes."""
    return plain_table(corruption_columns(metrics), corruption_cells(metrics))


def corruptions_csv(metrics: Mapping[str, Any]) -> str:
    """Write a line for each corruption and severity as CSV, in %; the clean picture has severity 0."""
    rows = [{"name": "clean", "severity": 0, "mean_iou": metrics["mean_iou"], "drop": 0.0}, *metrics["corruptions"]]
    return csv_text(
        ("corruption", "severity", "miou_percent", "lost_percent", "protocol"),
        [
            (row["name"], row["severity"], *map(_share, (row["mean_iou"], row["drop"])), protocol_words(metrics))
            for row in rows
        ],
    )


def _severities(metrics: Mapping[str, Any]) -> list[int]:
    return sorted({row["severity"] for row in metrics["corruptions"]})


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
