"""Whether an explanation is to be believed: curves of removed pixels, and maps of a model that forgets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hfseg.viz.style import BLUE, GREEN, MUTED, ORANGE, WIDTH_IN, label_ends, styled

ROW_IN = 2.6
ORDERS = (
    ("random", "random pixels", MUTED),
    ("moved", "the map, moved", ORANGE),
)


def check_title(facts: Mapping[str, Any]) -> str:
    """Say what the deletion curves show: the area below each is the mean probability while pixels are removed."""
    found, beats = facts["deletion"], facts["beats"]["deletion"]
    verdict = {
        (True, True): "faster than random pixels, and than the same areas elsewhere",
        (True, False): "faster than random pixels, but not than the same areas elsewhere",
        (False, True): "faster than the same areas elsewhere, but not than random pixels",
        (False, False): "not faster than random pixels",
    }[beats["random"], beats["moved"]]
    numbers = f"{_percent(found['area'])}, {_others(found)}"
    return f"Removing what the map highlights lowers `{facts['class']}` {verdict} ({numbers})"


@styled
def check_figure(facts: Mapping[str, Any]) -> Figure:
    """Draw deletion, insertion and randomization below each other, from the numbers of a check."""
    figure = Figure(figsize=(WIDTH_IN, 3 * ROW_IN))
    FigureCanvasAgg(figure)
    deletion, insertion, forgetting = figure.subplots(3, 1)
    _curves(deletion, facts, "deletion", "pixels removed, the map's highest first (%)")
    _curves(insertion, facts, "insertion", "pixels given back, the map's highest first (%)")
    _forgetting(forgetting, facts)
    return figure


def _curves(ax: Any, facts: Mapping[str, Any], name: str, x: str) -> None:
    found, percents = facts[name], 100 * np.asarray(facts["fractions"])
    for key, text, color in ORDERS:
        for number, curve in enumerate(found[f"{key}_curves"]):
            label = text if number == 0 else None
            ax.plot(percents, 100 * np.asarray(curve), color=color, linewidth=1.0, alpha=0.75, label=label)
    ax.plot(percents, 100 * np.asarray(found["curve"]), color=BLUE, linewidth=2.2, label="the map")
    ax.set_ylim(0, 105)
    ax.set_xlim(0, 100)
    ax.legend(frameon=False, fontsize=8, loc="upper right" if name == "deletion" else "lower right")
    title = f"{name.capitalize()}: mean {_percent(found['area'])}\n{_others(found)}"
    _name(ax, title, x, f"probability of `{facts['class']}` (%)")


def _forgetting(ax: Any, facts: Mapping[str, Any]) -> None:
    steps = facts["randomization"]
    places = np.arange(len(steps) + 1)
    ends = []
    for key, text, color in (("spearman", "rank correlation", BLUE), ("ssim", "SSIM", GREEN)):
        values = [1.0, *(step[key] for step in steps)]
        ax.plot(places, values, color=color, marker="o", markersize=3)
        ends.append((float(places[-1]), values[-1], text, color))
    ax.set_ylim(min(-0.15, min(step["spearman"] for step in steps) - 0.1), 1.08)
    label_ends(ax, ends)
    shown = np.unique(np.linspace(0, len(steps), min(5, len(steps) + 1)).round().astype(int))
    names = ["trained", *(step["module"] for step in steps)]
    ax.set_xticks(places[shown], [_short(names[place]) for place in shown], rotation=18, ha="right", fontsize=7.5)
    likeness = f"rank correlation\nends at {steps[-1]['spearman']:.2f}, SSIM at {steps[-1]['ssim']:.2f}"
    _name(ax, f"Weights drawn anew: {likeness}", "drawn anew, from the head down to", "likeness to the trained map")


def _name(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    ax.set_xlabel(x, fontsize=8.5)
    ax.set_ylabel(y, fontsize=8.5)


def _others(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{text} {_percent(float(np.mean(found[f'{key}_areas'])))}" for key, text, _ in ORDERS)


def _short(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
