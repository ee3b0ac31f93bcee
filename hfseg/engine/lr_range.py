"""The learning-rate range test: how the loss answers to rates from far too small to too large.

Source: Smith, arXiv 1506.01186, section 3.3; with rates that rise exponentially, a smoothed loss and an early end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config
from hfseg.engine.evaluation import prefetch
from hfseg.engine.optim import OptimConfig
from hfseg.engine.runtime import Runtime
from hfseg.engine.task import Task
from hfseg.engine.trainable import Trainable

SMOOTHING = 0.9
"""Decay of the running mean of the losses."""
DIVERGED = 4.0
"""The test ends where the smoothed loss is this many times its lowest value."""
LEAST = 10
"""Losses without which nothing can be said: what the running mean spans."""


class LrSpan(Config):
    """Which rates are tried."""

    first: PositiveFloat = 1e-7
    """Learning rate of the first step."""
    last: PositiveFloat = 1.0
    """Learning rate of the last step, unless the loss diverges before."""
    steps: PositiveInt = 100
    """Optimizer steps; from one to the next the rate is multiplied by the same factor."""

    @model_validator(mode="after")
    def _rises(self) -> "LrSpan":
        if self.last <= self.first:
            raise ValueError(f"`last` must be larger than `first`: got {self.first:g} to {self.last:g}")
        if self.steps <= LEAST:
            raise ValueError(f"`steps` must be more than {LEAST}, over which losses are smoothed: got {self.steps}")
        return self

    def lr_at(self, step: int) -> float:
        """Give the rate of a step, counted from 0."""
        return float(self.first * (self.last / self.first) ** (step / (self.steps - 1)))


@dataclass(frozen=True)
class LrRange:
    """The rates that were tried, and the losses before each of their steps."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    is_diverged: bool
    """Whether the loss grew beyond bounds, or was not finite, before the last rate."""

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The running mean of the losses, without the zero that it starts from."""
        means: list[float] = []
        mean = 0.0
        for loss in self.losses:
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            means.append(mean / (1 - SMOOTHING ** (len(means) + 1)))
        return tuple(means)

    @property
    def lowest(self) -> float | None:
        """The rate at which the smoothed loss is lowest; None where it did not fall."""
        place = self._lowest()
        return None if place is None else self.lrs[place]

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls most for a factor of the rate; None where it did not fall."""
        place = self._lowest()
        if place is None:
            return None
        slopes = np.gradient(self.smoothed)[LEAST - 1 : place + 1]  # the steps are even on a logarithmic scale
        return self.lrs[LEAST - 1 + int(slopes.argmin())]

    @property
    def suggested(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest, which is on the edge of too much."""
        return None if self.lowest is None else self.lowest / 10

    def _lowest(self) -> int | None:
        place = int(np.argmin(self.smoothed)) if self.losses else 0
        return place if place >= LEAST else None


def lr_range(
    task: Task,
    optim: OptimConfig,
    runtime: Runtime,
    span: LrSpan,
    *,
    accumulation: int = 1,
    show: Callable[[int, int | None], None] = lambda done, total: None,
) -> LrRange:
    """Train a task with rates that rise from step to step, until the loss diverges or `span` is done.

    Batches, augmentation, groups of parameters and random draws are those of a run from its beginning; the model's
    weights are of no use afterwards. Losses are means over all processes, so that these stop together.
    """
    trainable = Trainable(task.model, optim.model_copy(update={"ema_decay": None}), runtime, depths=task.depths)
    trainable.trained.train()
    batches = prefetch(task.batches(0), runtime.device)
    lrs: list[float] = []
    losses: list[float] = []
    for step in range(span.steps):
        for group in trainable.optimizer.param_groups:
            group["lr"] = span.lr_at(step) * group["lr_scale"]
        runtime.seed(task.seed, step)
        passes, _ = trainable.take_step(step, batches, task.augment, task.loss_fn, count=accumulation)
        mean = fmean(float(terms["total"]) for _, terms in passes)
        loss = fmean(runtime.gather(mean))
        if not math.isfinite(loss):
            return LrRange(tuple(lrs), tuple(losses), is_diverged=True)
        lrs.append(span.lr_at(step))
        losses.append(loss)
        show(step + 1, span.steps)
        smoothed = LrRange((), tuple(losses), is_diverged=False).smoothed
        if smoothed[-1] > DIVERGED * min(smoothed):
            return LrRange(tuple(lrs), tuple(losses), is_diverged=True)
    return LrRange(tuple(lrs), tuple(losses), is_diverged=False)
