"""How the loss answered to rising learning rates, as a figure and as text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hfseg.viz.style import BLUE, GREEN, INK, ORANGE, axes, name_axes, styled

HEADROOM = 1.3
"""How far above the first smoothed loss the figure reaches: what diverges leaves it."""
MARKS = {"steepest": ORANGE, "suggested": GREEN, "lowest": INK}
RULE = "a tenth of the rate at which the smoothed loss is lowest"


@styled
def lr_figure(found: Mapping[str, Any]) -> Figure:
    """Draw the losses, faint, and their running mean over the learning rates, and mark what follows from them.

    Raises:
        ValueError: there is no loss.
    """
    if not found["losses"]:
        raise ValueError("there is no loss to draw")
    figure, ax = axes()
    ax.plot(found["lrs"], found["losses"], color=BLUE, alpha=0.28, linewidth=1.0)
    ax.plot(found["lrs"], found["smoothed"], color=BLUE)
    ax.set_xscale("log")
    low, high = min(found["smoothed"]), HEADROOM * found["smoothed"][0]
    ax.set_ylim(low - 0.2 * (high - low), high)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))
    for name, color in MARKS.items():
        if found[name] is not None:
            point = found[name], np.interp(np.log(found[name]), np.log(found["lrs"]), found["smoothed"])
            ax.plot(*point, color=color, marker="o", markersize=5)
            told = f"{name} {found[name]:.1e}"
            place = {"xytext": (0, -15), "ha": "center"} if name == "lowest" else {"xytext": (6, 5)}
            ax.annotate(told, point, textcoords="offset points", color=color, **place)
    name_axes(ax, title=_title(found), x="learning rate", y="loss")
    return figure


def lr_text(found: Mapping[str, Any]) -> str:
    """Say what was tried and what follows from it."""
    tried = f"{len(found['lrs'])} steps"
    if found["lrs"]:
        tried += f" with learning rates from {found['lrs'][0]:.1e} to {found['lrs'][-1]:.1e}"
    ended = "the loss diverged then" if found["is_diverged"] else "the loss did not diverge"
    if found["suggested"] is None:
        return f"{tried}; {ended}\nno suggestion: the smoothed loss was lowest at the beginning"
    lines = [
        f"{tried}; {ended}",
        f"lowest smoothed loss: {min(found['smoothed']):.4g} at {found['lowest']:.1e}; "
        f"steepest fall at {found['steepest']:.1e}",
        f"suggestion: --lr {found['suggested']:.1e} ({RULE})",
    ]
    if found["lowest"] == found["lrs"][-1]:
        lines.append("the loss was still falling at the last rate: try larger ones too")
    return "\n".join(lines)


def _title(found: Mapping[str, Any]) -> str:
    if found["suggested"] is None:
        return "No learning rate to suggest: the loss was lowest at the beginning"
    return f"Learning rate {found['suggested']:.1e}: {RULE}"
