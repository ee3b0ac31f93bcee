"""The report of a run: plots and tables as files, and one page that needs nothing but itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hfseg.viz import facts, tables
from hfseg.viz.classes import iou_bars
from hfseg.viz.confusion import confusion_bars, confusion_map
from hfseg.viz.curves import accuracy_curves, iou_curve, learning_rate_curve, loss_curves
from hfseg.viz.explained import embed_explanations
from hfseg.viz.html import plot, render_page, render_part
from hfseg.viz.numbers import freeze_state, level_words, score_word, span
from hfseg.viz.pictures import embed
from hfseg.viz.run import RunFolder, read_run
from hfseg.viz.style import write_png

MAX_PICTURES = 12
MAX_EXPLANATIONS = 24
PICTURE_BYTES = 3_500_000
"""What all pictures of a page may take together, so that the page stays under 5 MB."""
CURVES = ("loss", "miou", "accuracy", "learning-rate")
PIECES = {"summary-piece": "report_summary.html.j2", "curves-piece": "report_curves.html.j2"}
"""The elements of the page that change while a run is under way, by id, and their templates."""


def build_report(run_dir: Path) -> Path:
    """Write `plots/` and `report.html` of a run, from its folder alone, and give the page's path.

    What the run has not reached yet (validations, scores, pictures) is said in words. The page is one file without
    any request: drawings and pictures are inside, and a content policy forbids everything else.

    Raises:
        CheckpointError: the folder is no run, or a file in it is damaged.
    """
    run = read_run(run_dir)
    plots_dir = run_dir / "plots"
    plots_dir.mkdir(exist_ok=True)
    figures = draw(run)
    for name, figure in figures.items():
        write_png(figure, plots_dir / f"{name}.png")
    if run.metrics is not None:
        (plots_dir / "per-class.csv").write_text(tables.scores_csv(run.metrics), encoding="utf-8")
        (plots_dir / "confusion.csv").write_text(tables.confusion_csv(run.metrics), encoding="utf-8")
    page_path = run_dir / "report.html"
    unfinished = page_path.with_suffix(".tmp")
    unfinished.write_text(render(run, figures), encoding="utf-8")
    unfinished.replace(page_path)
    return page_path


def draw(run: RunFolder) -> dict[str, Figure]:
    """Draw every figure that the run has the numbers for, by name."""
    figures = draw_curves(run)
    if run.metrics is not None:
        matrix = np.asarray(run.metrics["confusion"], dtype=np.int64)
        figures["per-class"] = iou_bars(run.metrics["classes"])
        names = [row["name"] for row in run.metrics["classes"]]
        figures["confusion"] = confusion_map(matrix, names)
        figures["most-confused"] = confusion_bars(matrix, names)
    return figures


def draw_curves(run: RunFolder) -> dict[str, Figure]:
    """Draw what has happened over the steps so far, by name."""
    figures: dict[str, Figure] = {}
    if run.train:
        figures["loss"] = loss_curves(run.records)
        figures["learning-rate"] = learning_rate_curve(run.records)
    if run.validations:
        baseline = run.metrics["baseline"] if run.metrics is not None else None
        constant = (baseline["class"], baseline["mean_iou"]) if baseline and baseline["mean_iou"] is not None else None
        figures["miou"] = iou_curve(run.records, baseline=constant)
        figures["accuracy"] = accuracy_curves(run.records)
    return figures


def render(run: RunFolder, figures: Mapping[str, Figure], *, live: Mapping[str, Any] | None = None) -> str:
    """Write the page as HTML; everything that comes from files is escaped.

    With `live` (its `stamp` and `pause_ms`) the page asks the server that it came from for what has changed.
    """
    scripts = ["slider.js", "matrix.js", *(["live.js"] if live else [])]
    return render_page(
        "report.html.j2",
        styles=["report.css"],
        scripts=scripts,
        live=live is not None,
        **(live or {}),
        **_summary_and_curves(run, figures),
        **_pictures(run),
        environment=facts.environment(run),
        command=facts.repeat_command(run),
        **_confusions(run.metrics, figures),
        metrics=run.metrics,
        interval_name=level_words(run.metrics) if run.metrics and "bootstrap" in run.metrics else "",
        classes=_class_rows(run.metrics) if run.metrics is not None else [],
        parameters=_parameter_rows(run),
        parameter_summary=tables.parameter_summary(run.parameters) if run.parameters else "",
    )


def render_pieces(run: RunFolder) -> dict[str, str]:
    """Write the elements that change while a run is under way, as HTML by the id of their places in the page."""
    values = _summary_and_curves(run, draw_curves(run))
    return {place: render_part(template, **values) for place, template in PIECES.items()}


def _summary_and_curves(run: RunFolder, figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        "run": run,
        "lead": facts.lead(run),
        "scores": facts.scores(run),
        "notices": facts.notices(run),
        "facts": facts.facts(run),
        "curves": [plot(name, figures[name]) for name in CURVES if name in figures],
    }


def _pictures(run: RunFolder) -> dict[str, Any]:
    """Share out the room for pictures: each file gets as much as any other."""
    samples, worst = run.pictures[:MAX_PICTURES], run.worst[:MAX_PICTURES]
    explained = run.explanations[:MAX_EXPLANATIONS]
    each = PICTURE_BYTES // max(1, len(samples) + len(worst) + len(explained))
    pictures, unreadable = embed(samples, max_bytes=each * len(samples))
    worst_pictures, also_unreadable = embed(worst, max_bytes=each * len(worst))
    room = each * len(explained)
    return {
        "pictures": pictures,
        "more_pictures": max(0, len(run.pictures) - MAX_PICTURES),
        "worst": worst_pictures,
        "more_explanations": max(0, len(run.explanations) - MAX_EXPLANATIONS),
        "unreadable": [*unreadable, *also_unreadable],
        "explanations": embed_explanations(explained, run.directory / "explain", max_bytes=room),
    }


def _confusions(metrics: Mapping[str, Any] | None, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Give the drawn matrix and bars, and the matrix in pixels as the page's script reads it."""
    if metrics is None or "confusion" not in figures:
        return {"matrix": None}
    rows = metrics["classes"]
    names, colors = [row["name"] for row in rows], [_hex(row["color"]) for row in rows]
    return {
        "matrix": {"names": names, "colors": colors, "counts": metrics["confusion"]},
        "confusion": plot("confusion", figures["confusion"]),
        "most_confused": plot("most-confused", figures["most-confused"]),
    }


def _class_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add to each class what its row shows: words, the colour, its share of the labelled pixels, and the bar."""
    total = max(1, sum(row["label_pixels"] for row in metrics["classes"]))
    return [
        {
            **row,
            "hex": _hex(row["color"]),
            "share": row["label_pixels"] / total,
            "iou_text": score_word(row, "iou"),
            "accuracy_text": score_word(row, "accuracy"),
            "interval_text": span(row["iou_interval"]).removesuffix(" %") if row.get("iou_interval") else "",
            "boundary_text": score_word(row, "boundary_iou") if "boundary_iou" in row else "",
        }
        for row in metrics["classes"]
    ]


def _parameter_rows(run: RunFolder) -> list[dict[str, Any]]:
    return [{**row, "state": freeze_state(row["total"], row["trainable"])} for row in run.parameters or ()]


def _hex(color: list[int]) -> str:
    return "#" + bytes(color).hex()
