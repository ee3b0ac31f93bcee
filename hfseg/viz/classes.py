"""What a run reached in each class: bars of IoU and the confusion matrix, as figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure

from hfseg.viz.numbers import percent, score_word
from hfseg.viz.style import CELL, GRID, INK, MUTED, WIDTH_IN, axes, name_axes, styled

MAX_CELLS = 40
"""Classes of a confusion matrix that have a row of their own; the rarer ones share one."""
MAX_TEXTS = 16
"""Classes up to which every cell says its number."""

MAX_NAME = 26
"""Letters of a class name beside an axis."""


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
    ax.set_yticks(places, [_short(row["name"]) for row in ranked], color=INK)
    ax.set_ylim(-0.6, len(ranked) - 0.4)
    ax.set_xlim(0, 100)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    name_axes(ax, title=_bars_title(ranked), x="IoU (%)", y="class")
    return figure


@styled
def confusion_map(matrix: Integer[np.ndarray, "k k"], names: Sequence[str]) -> Figure:
    """Draw where the pixels of each class went, in % of its labelled pixels (rows labels, columns predictions).

    A class without labelled pixels has an empty row. Shades follow the square root, so that small confusions are seen.
    """
    title = _confusion_title(matrix, names)
    matrix, names = _fold(matrix, list(names))
    count = len(names)
    share = row_shares(matrix)
    wide = max(4.2, 0.36 * count + 1.7), max(4.3, 0.37 * count + 1.7)
    figure, ax = axes(*(wide if count <= MAX_TEXTS else (0.18 * count + 2.2, 0.17 * count + 1.6)))
    red, green, blue = (int(CELL[place : place + 2], 16) / 255 for place in (1, 3, 5))
    shades = LinearSegmentedColormap.from_list("share", [(red, green, blue, 0.0), (red, green, blue, 1.0)])
    norm: Normalize = PowerNorm(0.5, vmin=0, vmax=100)
    mesh = ax.pcolormesh(np.arange(count + 1) - 0.5, np.arange(count + 1) - 0.5, 100 * share, cmap=shades, norm=norm)
    mesh.set_edgecolor(GRID)
    mesh.set_linewidth(0.5)
    mesh.set_rasterized(count > MAX_TEXTS)
    short = [_short(name) for name in names]
    ax.set_xticks(range(count), short, rotation=90, color=INK)
    ax.set_yticks(range(count), short, color=INK)
    ax.tick_params(labelsize=9 if count <= MAX_TEXTS else 7)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.grid(visible=False)
    if count <= MAX_TEXTS:
        _write_cells(ax, share)
    else:
        bar = figure.colorbar(mesh, ax=ax, shrink=0.5, ticks=[0, 5, 20, 50, 100])
        bar.set_label("share of the class's labelled pixels (%)", color=MUTED)
        bar.outline.set_visible(False)
    name_axes(ax, title=title, x="predicted class", y="labelled class")
    return figure


def row_shares(matrix: Integer[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Divide each row by its sum; a row without pixels becomes zeros."""
    pixels = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    share: Float[np.ndarray, "k k"] = matrix / pixels
    return share


def _write_cells(ax: Any, share: Float[np.ndarray, "k k"]) -> None:
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        color = "#ffffff" if value > 0.3 else INK
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=8)


def _fold(matrix: Integer[np.ndarray, "k k"], names: list[str]) -> tuple[Integer[np.ndarray, "k2 k2"], list[str]]:
    """Sum up the rarest classes, so that at most `MAX_CELLS` rows remain."""
    if len(names) <= MAX_CELLS:
        return matrix, names
    order = np.argsort(-matrix.sum(axis=1), kind="stable")
    kept = np.sort(order[: MAX_CELLS - 1])
    group = np.full(len(names), len(kept))
    group[kept] = np.arange(len(kept))
    folded = np.zeros((MAX_CELLS, MAX_CELLS), dtype=matrix.dtype)
    np.add.at(folded, np.ix_(group, group), matrix)
    return folded, [*(names[index] for index in kept), f"{len(names) - len(kept)} rarer classes"]


def _bars_title(ranked: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in ranked if row["iou"] is not None]
    if not scored:
        return "No class has an IoU"
    if len(scored) == 1:
        return f"{scored[0]['name']} has IoU {percent(scored[0]['iou'])}"
    best, worst = scored[-1], scored[0]
    return f"IoU from {percent(worst['iou'])} ({worst['name']}) to {percent(best['iou'])} ({best['name']})"


def _confusion_title(matrix: Integer[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Name the largest confusion among the classes that have at least a thousandth of the labelled pixels."""
    frequent = matrix.sum(axis=1) >= 0.001 * matrix.sum()
    wrong = row_shares(matrix) * (1 - np.eye(len(names))) * frequent[:, None]
    row, column = divmod(int(wrong.argmax()), len(names))
    if wrong[row, column] == 0:
        return "No class is taken for another"
    return f"Most confused: {percent(float(wrong[row, column]))} of {names[row]} is predicted as {names[column]}"


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
