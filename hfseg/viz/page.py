"""The report of a run: plots and tables as files, and one page that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hfseg.viz import facts, tables
from hfseg.viz.classes import iou_bars
from hfseg.viz.confusion import confusion_bars, confusion_map
from hfseg.viz.curves import accuracy_curves, iou_curve, learning_rate_curve, loss_curves
from hfseg.viz.numbers import freeze_state, score_word
from hfseg.viz.pictures import embed
from hfseg.viz.run import RunFolder, read_run
from hfseg.viz.style import inline_svg, write_png

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURES = 12
PICTURE_BYTES = 3_500_000
"""What all sample pictures of a page may take together, so that the page stays under 5 MB."""
CURVES = ("loss", "miou", "accuracy", "learning-rate")
CONFUSIONS = ("most-confused", "confusion")


@dataclass(frozen=True)
class Plot:
    """A figure as a piece of the page, and the width in px at which its text is easily read."""

    svg: Markup
    width: int


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
    figures: dict[str, Figure] = {}
    if run.train:
        figures["loss"] = loss_curves(run.records)
        figures["learning-rate"] = learning_rate_curve(run.records)
    if run.validations:
        baseline = run.metrics["baseline"] if run.metrics is not None else None
        constant = (baseline["class"], baseline["mean_iou"]) if baseline is not None else None
        figures["miou"] = iou_curve(run.records, baseline=constant)
        figures["accuracy"] = accuracy_curves(run.records)
    if run.metrics is not None:
        matrix = np.asarray(run.metrics["confusion"], dtype=np.int64)
        figures["per-class"] = iou_bars(run.metrics["classes"])
        names = [row["name"] for row in run.metrics["classes"]]
        figures["confusion"] = confusion_map(matrix, names)
        figures["most-confused"] = confusion_bars(matrix, names)
    return figures


def render(run: RunFolder, figures: Mapping[str, Figure]) -> str:
    """Write the page as HTML; everything that comes from files is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    pictures, unreadable = embed(run.pictures[:MAX_PICTURES], max_bytes=PICTURE_BYTES)
    return environment.get_template("report.html.j2").render(
        run=run,
        lead=facts.lead(run),
        scores=facts.scores(run),
        notices=facts.notices(run),
        facts=facts.facts(run),
        environment=facts.environment(run),
        command=facts.repeat_command(run),
        curves=[_plot(name, figures[name]) for name in CURVES if name in figures],
        confusions=[_plot(name, figures[name]) for name in CONFUSIONS if name in figures],
        classes=_class_rows(run.metrics) if run.metrics is not None else [],
        parameters=_parameter_rows(run),
        parameter_summary=tables.parameter_summary(run.parameters) if run.parameters else "",
        pictures=pictures,
        unreadable=unreadable,
        more_pictures=max(0, len(run.pictures) - MAX_PICTURES),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _plot(name: str, figure: Figure) -> Plot:
    title = figure.get_suptitle().replace("\n", " ")
    width_px = round(112 * figure.get_size_inches()[0])
    return Plot(Markup(inline_svg(figure, name, described=title)), width_px)


def _class_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add to each class what its row shows: words, the colour, its share of the labelled pixels, and the bar."""
    total = max(1, sum(row["label_pixels"] for row in metrics["classes"]))
    return [
        {
            **row,
            "hex": "#" + bytes(row["color"]).hex(),
            "share": row["label_pixels"] / total,
            "iou_text": score_word(row, "iou"),
            "accuracy_text": score_word(row, "accuracy"),
        }
        for row in metrics["classes"]
    ]


def _parameter_rows(run: RunFolder) -> list[dict[str, Any]]:
    return [{**row, "state": freeze_state(row["total"], row["trainable"])} for row in run.parameters or ()]
