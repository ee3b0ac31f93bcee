"""Which classes are taken for which: the confusion matrix and its largest entries, as figures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure

from hfseg.viz.numbers import percent, short_count, short_name
from hfseg.viz.style import CELL, GRID, INK, MUTED, ORANGE, WIDTH_IN, axes, name_axes, styled

MAX_CELLS = 40
"""Classes of a confusion matrix that have a row of their own; the less confused ones share one."""
MAX_TEXTS = 16
"""Classes up to which every cell says its share."""
MAX_COUNTS = 6
"""Classes up to which every cell says its pixels too."""
FREQUENT = 0.001
"""Share of the labelled pixels from which on a class is named: what happens to rarer ones is chance."""


class Confusion(NamedTuple):
    """Pixels of one class that were predicted as another, and their share of all pixels of that class."""

    label: str
    pred: str
    share: float
    pixels: int


def largest_confusions(matrix: Integer[np.ndarray, "k k"], names: Sequence[str], number: int) -> list[Confusion]:
    """List the confusions (rows labels, columns predictions) of the largest shares, the largest first.

    Classes with less than a thousandth of the labelled pixels are left out.
    """
    share = row_shares(matrix)
    cells = _ranked_cells(matrix)[:number]
    return [Confusion(names[y], names[p], float(share[y, p]), int(matrix[y, p])) for y, p in cells]


@styled
def confusion_map(matrix: Integer[np.ndarray, "k k"], names: Sequence[str]) -> Figure:
    """Draw where the pixels of each class went, in % of its labelled pixels (rows labels, columns predictions).

    A class without labelled pixels has an empty row. Shades follow the square root, so that small confusions are seen.
    Of many classes those are drawn that have a part in the largest confusions; the others are added up.
    """
    title = _title(matrix, names)
    matrix, names = _fold(matrix, list(names))
    count = len(names)
    share = row_shares(matrix)
    cell = 0.6 if count <= MAX_COUNTS else 0.37
    wide = max(4.2, cell * count + 1.7), max(4.3, cell * count + 1.7)
    figure, ax = axes(*(wide if count <= MAX_TEXTS else (0.18 * count + 2.2, 0.17 * count + 1.6)))
    mesh = _draw_cells(ax, share, fine=count > MAX_TEXTS)
    short = [short_name(name) for name in names]
    ax.set_xticks(range(count), short, rotation=90, color=INK)
    ax.set_yticks(range(count), short, color=INK)
    ax.tick_params(labelsize=9 if count <= MAX_TEXTS else 7)
    if count <= MAX_TEXTS:
        _write_cells(ax, matrix, share)
    else:
        bar = figure.colorbar(mesh, ax=ax, shrink=0.5, ticks=[0, 5, 20, 50, 100])
        bar.set_label("share of the class's labelled pixels (%)", color=MUTED)
        bar.outline.set_visible(False)
    unit = "" if count > MAX_TEXTS else " (% of the labelled class, pixels)" if count <= MAX_COUNTS else " (%)"
    name_axes(ax, title=title, x=f"predicted class{unit}", y="labelled class")
    return figure


@styled
def confusion_bars(matrix: Integer[np.ndarray, "k k"], names: Sequence[str], *, number: int = 12) -> Figure:
    """Draw the largest confusions as bars, the largest on top: share of the labelled class and pixels."""
    found = largest_confusions(matrix, names, number)[::-1]
    rows = max(3, len(found))
    figure, ax = axes(WIDTH_IN, 1.1 + 0.25 * rows)
    places = np.arange(len(found))
    values = [100 * row.share for row in found]
    ax.barh(places, values, color=ORANGE, height=0.68)
    for place, value, row in zip(places, values, found, strict=True):
        note = f"{percent(row.share)}, {short_count(row.pixels)} px"
        ax.annotate(note, (value, place), xytext=(4, 0), textcoords="offset points", va="center", color=MUTED)
    ax.set_yticks(places, [f"{short_name(row.label)} → {short_name(row.pred)}" for row in found], color=INK)
    ax.set_ylim(len(found) - rows - 0.6, len(found) - 0.4)
    ax.set_xlim(0, 2.1 * max(values, default=1.0))  # room for the notes
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= 100])
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    name_axes(ax, title=_bars_title(matrix, found), x="share of the label's pixels (%)", y="label → prediction")
    return figure


def row_shares(matrix: Integer[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Divide each row by its sum; a row without pixels becomes zeros."""
    pixels = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    share: Float[np.ndarray, "k k"] = matrix / pixels
    return share


def _ranked_cells(matrix: Integer[np.ndarray, "k k"]) -> list[tuple[int, int]]:
    """Order the confusions of the frequent classes by their share of the labelled class, equal ones by pixels."""
    frequent = matrix.sum(axis=1) >= FREQUENT * matrix.sum()
    wrong = np.where(np.eye(len(matrix), dtype=bool) | ~frequent[:, None], 0, matrix)
    order = np.lexsort((-wrong.ravel(), -row_shares(matrix).ravel() * (wrong.ravel() > 0)))
    cells = (divmod(int(place), len(matrix)) for place in order[: np.count_nonzero(wrong)])
    return list(cells)


def _draw_cells(ax: Any, share: Float[np.ndarray, "k k"], *, fine: bool) -> Any:
    red, green, blue = (int(CELL[place : place + 2], 16) / 255 for place in (1, 3, 5))
    shades = LinearSegmentedColormap.from_list("share", [(red, green, blue, 0.0), (red, green, blue, 1.0)])
    norm: Normalize = PowerNorm(0.5, vmin=0, vmax=100)
    edges = np.arange(len(share) + 1) - 0.5
    mesh = ax.pcolormesh(edges, edges, 100 * share, cmap=shades, norm=norm)
    mesh.set_edgecolor(GRID)
    mesh.set_linewidth(0.5)
    mesh.set_rasterized(fine)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.grid(visible=False)
    return mesh


def _write_cells(ax: Any, matrix: Integer[np.ndarray, "k k"], share: Float[np.ndarray, "k k"]) -> None:
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        text = f"{100 * value:.0f}"
        if len(share) <= MAX_COUNTS:
            text = f"{text} %\n{short_count(int(matrix[row, column]))}"
        ax.text(column, row, text, ha="center", va="center", color="#ffffff" if value > 0.6 else INK, fontsize=8)


def _fold(matrix: Integer[np.ndarray, "k k"], names: list[str]) -> tuple[Integer[np.ndarray, "k2 k2"], list[str]]:
    """Add up the least confused classes, so that at most `MAX_CELLS` rows remain."""
    if len(names) <= MAX_CELLS:
        return matrix, names
    confused = dict.fromkeys(label for cell in _ranked_cells(matrix) for label in cell)
    frequent = np.argsort(-matrix.sum(axis=1), kind="stable").tolist()
    kept = np.sort(list(dict.fromkeys([*confused, *frequent]))[: MAX_CELLS - 1])
    group = np.full(len(names), len(kept))
    group[kept] = np.arange(len(kept))
    folded = np.zeros((MAX_CELLS, MAX_CELLS), dtype=matrix.dtype)
    np.add.at(folded, np.ix_(group, group), matrix)
    return folded, [*(names[index] for index in kept), f"{len(names) - len(kept)} other classes"]


def _title(matrix: Integer[np.ndarray, "k k"], names: Sequence[str]) -> str:
    largest = largest_confusions(matrix, names, 1)
    if not largest:
        return "No class is taken for another"
    return f"Most confused: {percent(largest[0].share)} of {largest[0].label} is predicted as {largest[0].pred}"


def _bars_title(matrix: Integer[np.ndarray, "k k"], found: Sequence[Confusion]) -> str:
    """Say how much of what is wrong the bars show."""
    wrong = int(matrix.sum() - matrix.trace())
    if not found:
        return "No class is taken for another"
    part = percent(sum(row.pixels for row in found) / wrong)
    if len(found) == 1:
        return f"The largest confusion makes {part} of the wrong pixels"
    return f"The {len(found)} largest confusions make {part} of the wrong pixels"
