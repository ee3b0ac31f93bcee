"""What a run did over its steps: loss, mIoU, accuracy and learning rate, as figures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hfseg.viz.numbers import percent
from hfseg.viz.run import Record, best_validation, events
from hfseg.viz.style import BLUE, GREEN, MUTED, ORANGE, axes, label_ends, name_axes, styled

STEPS = "optimizer step"
MAX_POINTS = 1200
"""Points of a raw curve that are drawn; more would only make the page heavy."""


@styled
def loss_curves(records: Sequence[Record]) -> Figure:
    """Draw the training loss, smoothed over its faint raw values, and the validation losses as points.

    Values that are not finite are left out and named in the title.

    Raises:
        ValueError: there is no training step in the records.
    """
    train = _need(records, "train")
    steps, loss = _column(train, "step"), _column(train, "loss")
    smooth = smoothed(loss)
    figure, ax = _step_axes()
    thin = slice(None, None, max(1, len(steps) // MAX_POINTS))
    ax.plot(steps[thin], loss[thin], color=BLUE, alpha=0.28, linewidth=1.0)
    ax.plot(steps[thin], smooth[thin], color=BLUE, marker="o" if len(steps) == 1 else None)
    finite = smooth[np.isfinite(smooth)]
    ends = [(steps[-1], finite[-1], "training", BLUE)] if len(finite) else []
    highest = finite.max(initial=0.0)
    validations = [record for record in events(list(records), "validation") if _is_finite(record.get("loss"))]
    if validations:
        v_steps, v_loss = _column(validations, "step"), _column(validations, "loss")
        ax.plot(v_steps, v_loss, color=ORANGE, marker="o", markersize=4, linewidth=1.0)
        ends.append((max(steps[-1], v_steps[-1]), v_loss[-1], "validation", ORANGE))
        highest = max(highest, v_loss.max())
    ax.set_ylim(0, 1.12 * highest or 1.0)
    label_ends(ax, ends)
    name_axes(ax, title=_loss_title(steps, loss, finite, validations), x=STEPS, y="loss")
    return figure


@styled
def iou_curve(records: Sequence[Record], *, baseline: tuple[str, float] | None = None) -> Figure:
    """Draw the validations' mIoU in %, mark the best, and show a constant predictor `(class name, mIoU)` below it.

    Raises:
        ValueError: there is no validation in the records.
    """
    validations = _need(records, "validation")
    best = best_validation(validations)
    steps, values = _column(validations, "step"), 100 * _column(validations, "mean_iou")
    figure, ax = _step_axes()
    ax.plot(steps, values, color=BLUE, marker="o", markersize=4)
    ax.plot(best["step"], values[steps == best["step"]][-1], color=BLUE, marker="o", markersize=8)
    highest = np.nan_to_num(values).max()
    if baseline is not None:
        name, share = baseline
        ax.axhline(100 * share, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        note = {"textcoords": "offset points", "ha": "right", "va": "bottom", "color": MUTED}
        ax.annotate(f"always “{name}”: {percent(share)}", (1, 100 * share), (-2, 3), ax.get_yaxis_transform(), **note)
        highest = max(highest, 100 * share)
    ax.set_ylim(0, min(102.0, max(1.0, 1.18 * highest)))
    tries = f"best of {len(validations)} validations" if len(validations) > 1 else "the only validation"
    name_axes(ax, title=f"mIoU {percent(best['mean_iou'])} at step {best['step']}, {tries}", x=STEPS, y="mIoU (%)")
    return figure


@styled
def accuracy_curves(records: Sequence[Record]) -> Figure:
    """Draw the validations' pixel accuracy and mean class accuracy in %.

    Raises:
        ValueError: there is no validation in the records.
    """
    validations = _need(records, "validation")
    steps = _column(validations, "step")
    figure, ax = _step_axes()
    ends = []
    for key, name, color in (("overall_accuracy", "pixel", BLUE), ("mean_accuracy", "mean of classes", GREEN)):
        values = 100 * _column(validations, key)
        ax.plot(steps, values, color=color, marker="o", markersize=4)
        ends.append((steps[-1], np.nan_to_num(values)[-1], name, color))
    ax.set_ylim(0, 102)
    label_ends(ax, ends)
    last = validations[-1]
    title = f"{percent(last['overall_accuracy'])} of pixels right at step {last['step']}, "
    name_axes(ax, title=title + f"{percent(last['mean_accuracy'])} in the mean of classes", x=STEPS, y="accuracy (%)")
    return figure


@styled
def learning_rate_curve(records: Sequence[Record]) -> Figure:
    """Draw the learning rate.

    Raises:
        ValueError: there is no training step in the records.
    """
    train = _need(records, "train")
    steps, rates = _column(train, "step"), _column(train, "lr")
    figure, ax = _step_axes()
    thin = slice(None, None, max(1, len(steps) // MAX_POINTS))
    ax.plot(steps[thin], rates[thin], color=BLUE, marker="o" if len(steps) == 1 else None)
    ax.set_ylim(0, 1.1 * rates.max() or 1.0)
    ax.ticklabel_format(axis="y", style="plain")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    peak = int(rates.argmax())
    title = f"Learning rate peaks at {rates[peak]:.2e} in step {steps[peak]:.0f}, is {rates[-1]:.2e} at the end"
    name_axes(ax, title=title, x=STEPS, y="learning rate")
    return figure


def smoothed(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Average exponentially over about a twentieth of the curve, without a bias at its start; gaps stay gaps."""
    keep = 1 - 2 / (max(3, len(values) // 20) + 1)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
            result[place] = total / weight
    return result


def _step_axes() -> tuple[Figure, Any]:
    figure, ax = axes()
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    return figure, ax


def _loss_title(
    steps: Float[np.ndarray, " n"],
    loss: Float[np.ndarray, " n"],
    finite: Float[np.ndarray, " m"],
    validations: Sequence[Record],
) -> str:
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        return f"Training loss is not a number at step {steps[bad[0]]:.0f}"
    title = f"Training loss {finite[-1]:.3f} at step {steps[-1]:.0f}"
    if not validations:
        return f"{title}, no validation yet"
    lowest = min(validations, key=lambda record: record["loss"])
    return f"{title}; validation is lowest at step {lowest['step']}: {lowest['loss']:.3f}"


def _need(records: Sequence[Record], event: str) -> tuple[Record, ...]:
    found = events(list(records), event)
    if not found:
        raise ValueError(f"no `{event}` record to draw: got {len(records)} records")
    return found


def _column(records: Sequence[Record], key: str) -> Float[np.ndarray, " n"]:
    return np.asarray([math.nan if record[key] is None else record[key] for record in records], dtype=np.float64)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
