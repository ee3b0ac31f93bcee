"""Comparing recipes that were trained with several seeds: intervals over seeds and images, pairs, and their correction.

A resample draws images with replacement, the same for every model, and seeds with replacement, the same for both models
of a pair. A few seeds vary less in resamples than seeds do, and say little about how much they do: their deviations
from the mean are widened by sqrt(s / (s - 1)) and by Student's quantile over the normal one, which is 6.5 for two
seeds, 2.2 for three and 1.4 for five. With one seed nothing is said about other seeds.

Source: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 2015, section 4.3 (the
widening: expanded percentile intervals); Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
Journal of Statistics 1979.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from hfseg.metrics.areas import accuracy_of, iou_of
from hfseg.metrics.bootstrap import BootstrapConfig, ImageAreas, Interval, Verdict, check_same
from hfseg.metrics.scores import number


@dataclass(frozen=True)
class Standing:
    """The scores of a member: means over its seeds."""

    seeds: tuple[int, ...]
    mean_iou: float
    interval: Interval
    spread: float | None
    """Standard deviation of mIoU between seeds; None for a single one."""
    overall_accuracy: float
    per_category_iou: tuple[float, ...]
    """NaN where a class is neither labelled nor predicted."""

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON has it: NaN becomes None."""
        ious = [number(iou) for iou in self.per_category_iou]
        return {**asdict(self), "seeds": list(self.seeds), "interval": list(self.interval), "per_category_iou": ious}


@dataclass(frozen=True)
class Pair:
    """The mIoU of `one` minus that of `other`, and what can be said about its sign after Holm's correction."""

    one: str
    other: str
    difference: float
    interval: Interval
    """Of this pair alone, not corrected."""
    p_value: float
    adjusted: float
    """The p-value after Holm's correction for all pairs."""
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON has it."""
        return {**asdict(self), "interval": list(self.interval)}


@dataclass(frozen=True)
class ClassWinner:
    """The member of the highest IoU of a class, and how sure that is against the next one."""

    winner: str
    next_best: str | None
    difference: float | None
    is_clear: bool
    """Whether the difference is distinguishable from none after Holm's correction for all classes."""


class SeedComparison:
    """Members by name, each a run for every seed, all scored on the same images.

    Raises:
        ValueError: two runs were not scored on the same images and labels; says where.
    """

    def __init__(self, members: Mapping[str, Mapping[int, ImageAreas]], bootstrap: BootstrapConfig) -> None:
        first = next(iter(next(iter(members.values())).values()))
        for runs in members.values():
            for run in runs.values():
                check_same(first, run)
        self.bootstrap = bootstrap
        self._points = {
            name: {seed: iou_of(run.areas.cpu().sum(0)) for seed, run in runs.items()} for name, runs in members.items()
        }
        self._accuracies = {
            name: [float(accuracy_of(run.areas.cpu().sum(0))) for run in runs.values()]
            for name, runs in members.items()
        }
        self._samples = {
            name: {seed: bootstrap.ious(run.areas) for seed, run in runs.items()} for name, runs in members.items()
        }

    def standing(self, name: str) -> Standing:
        """Score one member over its seeds."""
        points, samples = self._points[name], self._samples[name]
        means = torch.stack([iou.nanmean() for iou in points.values()])
        drawn = self._over_seeds({seed: sample.nanmean(-1) for seed, sample in samples.items()})
        return Standing(
            seeds=tuple(points),
            mean_iou=float(means.mean()),
            interval=self.bootstrap.between(drawn),
            spread=float(means.std()) if len(means) > 1 else None,
            overall_accuracy=float(np.mean(self._accuracies[name])),
            per_category_iou=tuple(torch.stack(list(points.values())).nanmean(0).tolist()),
        )

    def pairs(self) -> list[Pair]:
        """Compare every two members, on the seeds that both have; on all of both where they share none."""
        found = [(one, other, *self._pair(one, other)) for one, other in combinations(self._points, 2)]
        adjusted = holm([p_value for *_, p_value in found])
        return [
            Pair(one, other, difference, interval, p_value, corrected, self._verdict(difference, corrected))
            for (one, other, difference, interval, p_value), corrected in zip(found, adjusted, strict=True)
        ]

    def class_winners(self) -> list[ClassWinner | None]:
        """Name the member of the highest IoU for each class; None where no member has one."""
        ious = {name: self.standing(name).per_category_iou for name in self._points}
        ranked = [_ranked({name: values[k] for name, values in ious.items()}) for k in range(self._num_labels)]
        contests = {k: tuple(best)[:2] for k, best in enumerate(ranked) if len(best) > 1}
        p_values = [p_of(self._difference(one, other, k)) for k, (one, other) in contests.items()]
        clear = {k: corrected < self._alpha for k, corrected in zip(contests, holm(p_values), strict=True)}
        return [_winner(best, is_clear=clear.get(k, True)) for k, best in enumerate(ranked)]

    @property
    def _num_labels(self) -> int:
        return len(next(iter(next(iter(self._points.values())).values())))

    def _pair(self, one: str, other: str) -> tuple[float, Interval, float]:
        drawn, seeds = self._difference(one, other), self._seeds(one, other)
        here, there = (np.mean([float(self._points[n][s].nanmean()) for s in seeds[n]]) for n in (one, other))
        return float(here - there), self.bootstrap.between(drawn), p_of(drawn)

    def _difference(self, one: str, other: str, k: int | None = None) -> Float64[Tensor, " r"]:
        """The differences of all resamples: of mIoU, or of the IoU of class `k`."""
        seeds = self._seeds(one, other)
        means = [
            self._over_seeds({s: sample.nanmean(-1) if k is None else sample[:, k] for s, sample in kept.items()})
            for kept in ({s: self._samples[name][s] for s in seeds[name]} for name in (one, other))
        ]
        return means[0] - means[1]

    def _seeds(self, one: str, other: str) -> dict[str, list[int]]:
        shared = [seed for seed in self._points[one] if seed in self._points[other]]
        return {name: shared or list(self._points[name]) for name in (one, other)}

    def _over_seeds(self, samples: Mapping[int, Float64[Tensor, " r"]]) -> Float64[Tensor, " r"]:
        """Average the samples of runs over drawn seeds; runs of the same seeds get the same draws."""
        values = torch.stack(list(samples.values()), dim=1)
        resamples, num = values.shape
        if num == 1:
            return values[:, 0]
        draws = np.random.default_rng((self.bootstrap.seed, *samples)).multinomial(num, [1 / num] * num, resamples)
        weights = torch.from_numpy(draws / num)
        widened = 1 / num + widening(num, self.bootstrap.level) * (weights - 1 / num)
        mean: Tensor = (widened * values).sum(1)
        return mean

    @property
    def _alpha(self) -> float:
        return 1 - self.bootstrap.level

    def _verdict(self, difference: float, adjusted: float) -> Verdict:
        if adjusted >= self._alpha:
            return "not distinguishable"
        return "better" if difference > 0 else "worse"


def _ranked(ious: Mapping[str, float]) -> dict[str, float]:
    """Order members by IoU, the highest first; those without one are left out."""
    known = {name: iou for name, iou in ious.items() if iou == iou}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def _winner(ranked: Mapping[str, float], *, is_clear: bool) -> ClassWinner | None:
    if not ranked:
        return None
    (name, iou), *others = ranked.items()
    return ClassWinner(name, *(others[0][0], iou - others[0][1]) if others else (None, None), is_clear=is_clear)


def widening(seeds: int, level: float) -> float:
    """Give the factor by which deviations of resampled seeds from their mean are widened, for two seeds or more."""
    upper = (1 + level) / 2
    return math.sqrt(seeds / (seeds - 1)) * _student_quantile(upper, seeds - 1) / NormalDist().inv_cdf(upper)


def _student_quantile(share: float, freedom: int) -> float:
    """Find the quantile of Student's distribution; as an angle, its density is a power of the cosine."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, 100_001)
    density = np.cos(angles).clip(0) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(float(np.interp(share, below / below[-1], angles)))


def p_of(differences: Float64[Tensor, " r"]) -> float:
    """Give the two-sided p-value of no difference: twice the smaller share of resamples on either side of zero.

    Resamples without a score are left out; the observation counts as one resample, so that no value is 0.
    """
    known = differences[~differences.isnan()]
    fewer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(known) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, by Holm's step-down procedure, in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
