"""What a run reached in each class: bars of IoU, as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hfseg.viz.numbers import percent, score_word, short_name
from hfseg.viz.style import INK, MUTED, WIDTH_IN, axes, name_axes, styled


@styled
def iou_bars(classes: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the IoU of each class in %, the best on top, in the class's colour; classes without one say why.

    `classes` are the rows of `metrics.json`.
    """
    ranked = sorted(classes, key=lambda row: -1.0 if row["iou"] is None else row["iou"])
    figure, ax = axes(WIDTH_IN, 1.1 + 0.23 * len(ranked))
    places = np.arange(len(ranked))
    values = [100 * (row["iou"] or 0.0) for row in ranked]
    colors = ["#" + bytes(row["color"]).hex() for row in ranked]
    ax.barh(places, values, color=colors, height=0.72, edgecolor=MUTED, linewidth=0.5)
    for place, value, row in zip(places, values, ranked, strict=True):
        word = score_word(row, "iou") if row["state"] == "ok" or row["iou"] is None else f"0 %, {row['state']}"
        ax.annotate(word, (value, place), xytext=(4, 0), textcoords="offset points", va="center", color=MUTED)
    ax.set_yticks(places, [short_name(row["name"]) for row in ranked], color=INK)
    ax.set_ylim(-0.6, len(ranked) - 0.4)
    ax.set_xlim(0, 100)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    name_axes(ax, title=_bars_title(ranked), x="IoU (%)", y="class")
    return figure


def _bars_title(ranked: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in ranked if row["iou"] is not None]
    if not scored:
        return "No class has an IoU"
    if len(scored) == 1:
        return f"{scored[0]['name']} has IoU {percent(scored[0]['iou'])}"
    best, worst = scored[-1], scored[0]
    return f"IoU from {percent(worst['iou'])} ({worst['name']}) to {percent(best['iou'])} ({best['name']})"
