"""Effective receptive fields side by side: encoders in rows, stages in columns."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hfseg.viz.heat import COLOR_MAP
from hfseg.viz.style import INK, MUTED, styled

PANEL_IN = 2.0
FAINTEST = 1e-4
"""Share of the largest influence below which everything is black."""
NORM = LogNorm(vmin=FAINTEST, vmax=1.0)
HALF, MOST = "#7dd3fc", "#ffffff"


@dataclass(frozen=True)
class Field:
    """A receptive field: the influence of each pixel, and the squares around `centre` that hold 50 and 95 % of it."""

    model: str
    layer: str
    influence: Float[np.ndarray, "h w"]
    centre: tuple[float, float]
    radius_50_px: float
    radius_95_px: float


@styled
def receptive_figure(fields: Sequence[Sequence[Field]], *, title: str) -> Figure:
    """Draw a panel for each field, one row for each model, all by one scale relative to each panel's maximum."""
    columns = max(len(row) for row in fields)
    figure = Figure(figsize=(PANEL_IN * columns + 1.0, (PANEL_IN + 0.45) * len(fields) + 0.8))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(fields), columns, squeeze=False)
    for row, of_model in zip(axes, fields, strict=True):
        for ax, field in zip(row, of_model, strict=False):
            _panel(ax, field)
        for ax in row[len(of_model) :]:
            ax.set_axis_off()
    bar = figure.colorbar(ScalarMappable(NORM, COLOR_MAP), ax=axes, shrink=0.7, pad=0.01)
    bar.set_label("influence, share of the largest", fontsize=8)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.tick_params(labelsize=8)
    lines = textwrap.wrap(title, width=int(11 * figure.get_size_inches()[0]))
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=10, fontweight="bold")
    figure.supxlabel(
        "squares hold 50 % (blue) and 95 % (white) of the absolute gradient",
        fontsize=8,
        color=MUTED,
        x=0.012,
        ha="left",
    )
    return figure


def _panel(ax: Any, field: Field) -> None:
    relative = field.influence / field.influence.max()
    height, width = relative.shape
    ax.imshow(np.maximum(relative, FAINTEST), cmap=COLOR_MAP, norm=NORM, extent=(0, width, height, 0))
    for radius, color in ((field.radius_50_px, HALF), (field.radius_95_px, MOST)):
        corner = field.centre[1] - radius, field.centre[0] - radius
        ax.add_patch(Rectangle(corner, 2 * radius, 2 * radius, fill=False, edgecolor=color, linewidth=1.0))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.grid(visible=False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"{field.model}, {field.layer}", fontsize=8.5, color=INK, loc="left")
    ax.set_xlabel(f"95 %: ±{field.radius_95_px:.0f} px   50 %: ±{field.radius_50_px:.0f}", fontsize=8)
