"""One look for all figures: size, colours, fonts; and how a figure becomes a PNG or a piece of a page."""

import io
import math
import re
import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2329", "#667080", "#e2e5ea"
BLUE, ORANGE, GREEN = "#0b6bcb", "#c2570c", "#157f5b"
CELL = "#0a66c2"  # white numbers stand on it
PAGE_COLORS = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    CELL: "cell",
}
"""Colours that a page replaces by its own custom properties, so that one SVG suits light and dark."""

WIDTH_IN, HEIGHT_IN = 4.8, 3.0
"""Small on paper, so that text is still readable where a figure fills the width of a phone."""
STYLE = {
    "text.parse_math": False,  # a class may be called `$`
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.07,
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "hfseg",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.color": MUTED,
    "ytick.major.size": 0.0,
}

styled = mpl.rc_context(STYLE)
"""Decorator of the functions that draw: the style holds inside and nowhere else."""


def axes(width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> tuple[Figure, Any]:
    """Make a figure with one pair of axes; to be called inside a `styled` function."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def name_axes(ax: Any, *, title: str, x: str, y: str) -> None:
    """Write the finding above and the units beside; the title is broken to the figure's width."""
    width_in = float(ax.figure.get_size_inches()[0])
    lines = textwrap.wrap(title, width=int(10 * width_in))
    ax.figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=11, fontweight="bold")
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def label_ends(ax: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Write `(x, y, text, color)` to the right of where lines end, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    apart = (high - low) * 0.085
    placed = -math.inf
    for x, y, text, color in sorted(ends, key=lambda end: end[1]):
        placed = max(y, placed + apart)
        ax.annotate(
            text,
            (x, placed),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=color,
            annotation_clip=False,
        )


@styled
def write_png(figure: Figure, path: Path) -> None:
    """Save a figure on white paper at 200 dots per inch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks; the page has it
        figure.savefig(path, dpi=200, facecolor="white")


@styled
def inline_svg(figure: Figure, name: str, *, described: str) -> str:
    """Write a figure as an `<svg>` element for a page: transparent, its ids begin with `name`, no width of its own.

    Texts stay texts, in the page's font. `described` is what a screen reader says.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: (?:[\w.]+ )*?[\d.]+px) [^;\"]+", r"\1 var(--font)", svg)
    for color, variable in PAGE_COLORS.items():
        svg = svg.replace(f": {color}", f": var(--{variable})")
    described = described.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return re.sub(
        r'<svg (.*?)width="[\d.]+pt"', rf'<svg role="img" aria-label="{_literal(described)}" \1', _no_height(svg)
    )


def _no_height(svg: str) -> str:
    return re.sub(r'(<svg .*?)height="[\d.]+pt"', r"\1", svg, count=1, flags=re.DOTALL)


def _literal(text: str) -> str:
    """Protect backslashes in the replacement text of a regular expression."""
    return text.replace("\\", r"\\")
