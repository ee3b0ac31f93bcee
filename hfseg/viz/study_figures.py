"""Accuracy against cost, as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from hfseg.viz.style import BLUE, GRID, INK, MUTED, axes, name_axes, styled

WIDE = 4
"""Costs that lie further apart than this factor are drawn on a logarithmic axis."""
MAX_NAMED = 4
"""Members that a title names."""
LINE_SHARE = 0.075
"""Height of a label, as a share of the axis."""


@styled
def accuracy_against(
    members: Sequence[Mapping[str, Any]], costs: Sequence[float], *, leaders: Sequence[str], what: str
) -> Figure:
    """Draw mIoU with its interval against a cost; a line joins the members that none is both cheaper and better than.

    `leaders` (the best, and what is not distinguishable from it) are blue; `what` names the axis with its unit.

    Raises:
        ValueError: there are no members.
    """
    if not members:
        raise ValueError("there is nothing to draw: got no members")
    figure, ax = axes(5.4, 3.6 + 0.15 * max(0, len(members) - 6))
    frontier = pareto(members, costs)
    order = sorted(frontier, key=lambda place: costs[place])
    ax.plot(
        [costs[i] for i in order], [100 * members[i]["mean_iou"] for i in order], color=GRID, linewidth=2.5, zorder=1
    )
    for member, cost in zip(members, costs, strict=True):
        low, high = (100 * end for end in member["interval"])
        color = BLUE if member["name"] in leaders else MUTED
        ax.plot([cost, cost], [low, high], color=color, linewidth=1.2, alpha=0.6)
        ax.plot(cost, 100 * member["mean_iou"], "o", color=color, markersize=6)
    if max(costs) > WIDE * min(costs):
        ax.set_xscale("log")
    ax.margins(x=0.28, y=0.12)
    _label(ax, [(cost, 100 * member["mean_iou"], member["name"]) for member, cost in zip(members, costs, strict=True)])
    name_axes(ax, title=_title([members[place]["name"] for place in order], len(members)), x=what, y="mIoU (%)")
    return figure


def _title(names: Sequence[str], num_members: int) -> str:
    """Say which members are on the frontier, or how many where their names would fill the figure."""
    if num_members == 1:
        return f"{names[0]} alone"
    if len(names) > MAX_NAMED:
        return f"{len(names)} of {num_members} trade mIoU for cost: none is both cheaper and better than they are"
    return f"None is both cheaper and better than {', '.join(names)}"


def pareto(members: Sequence[Mapping[str, Any]], costs: Sequence[float]) -> list[int]:
    """Find the members than which no other costs less and scores more, by place."""
    points = [(cost, -member["mean_iou"]) for member, cost in zip(members, costs, strict=True)]
    return [
        place
        for place, (cost, loss) in enumerate(points)
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v in points)
    ]


def _label(ax: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, towards the middle, moved apart where they would overlap on one side."""
    low, high = ax.get_ylim()
    apart = (high - low) * LINE_SHARE
    middle = ax.transAxes.transform((0.5, 0))[0]
    last = {True: low - apart, False: low - apart}
    for x, y, name in sorted(points, key=lambda point: point[1]):
        is_left = bool(ax.transData.transform((x, y))[0] <= middle)
        height = max(y, last[is_left] + apart)
        last[is_left] = height
        offset, side = (8, "left") if is_left else (-8, "right")
        ax.annotate(
            name, (x, height), (offset, 0), textcoords="offset points", ha=side, va="center", color=INK, fontsize=8.5
        )
