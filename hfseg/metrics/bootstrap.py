"""How far scores would move on other images of the same kind: intervals from resampled images.

Source: the percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float64, Int
from pydantic import Field, NonNegativeInt
from torch import Tensor

from hfseg.config import Config
from hfseg.metrics.areas import accuracy_of, iou_of

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "not distinguishable"]

_CHUNK = 2**22
"""Weights that are held at a time: 32 MiB."""


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores over the data set; a class without IoU has none."""

    mean_iou: Interval
    overall_accuracy: Interval
    per_category_iou: tuple[Interval | None, ...]


@dataclass(frozen=True)
class ImageAreas:
    """The areas of one model on the images of a set: pixels hit, labelled and predicted of each class."""

    ids: tuple[str, ...]
    areas: Int[Tensor, "n 3 k"]


@dataclass(frozen=True)
class Difference:
    """The mIoU of a model minus that of another on the same images, and what can be said about its sign."""

    difference: float
    interval: Interval

    @property
    def verdict(self) -> Verdict:
        """Say `better` or `worse` where the interval leaves no doubt."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON has it."""
        return {"difference": self.difference, "interval": list(self.interval), "verdict": self.verdict}


class BootstrapConfig(Config):
    """How intervals are found: images are drawn again and again, with replacement, and scored together.

    They tell what the choice of the images adds to a score, and nothing about other seeds of the training. Images count
    as independent: of frames that resemble each other, the intervals are too narrow.
    """

    resamples: Annotated[int, Field(ge=100)] = 1000
    """How often as many images as there are are drawn."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the resamples that lie inside an interval."""
    seed: NonNegativeInt = 0
    """Seed of the draws."""

    def intervals(self, areas: Int[Tensor, "n 3 k"]) -> Intervals:
        """Find the intervals of mIoU, pixel accuracy and the IoU of each class."""
        drawn = list(self._resampled(areas))
        iou = torch.cat([iou_of(part) for part in drawn])
        accuracy = torch.cat([accuracy_of(part) for part in drawn])
        by_class = [self.between(values) for values in iou.unbind(1)]
        has_iou = iou_of(areas.cpu().sum(0)).isfinite().tolist()
        return Intervals(
            mean_iou=self.between(iou.nanmean(1)),
            overall_accuracy=self.between(accuracy),
            per_category_iou=tuple(pair if has else None for pair, has in zip(by_class, has_iou, strict=True)),
        )

    def difference(self, ours: ImageAreas, theirs: ImageAreas) -> Difference:
        """Compare two models on the same images, drawing the same images for both.

        Raises:
            ValueError: the images, their order, or their labels are not the same; says where.
        """
        check_same(ours, theirs)
        both = torch.stack((ours.areas.cpu(), theirs.areas.cpu()), dim=1)
        means = torch.cat([iou_of(part).nanmean(-1) for part in self._resampled(both)])
        here, there = iou_of(both.sum(0)).nanmean(-1).tolist()
        return Difference(here - there, self.between(means[:, 0] - means[:, 1]))

    def ious(self, areas: Int[Tensor, "n 3 k"]) -> Float64[Tensor, "r k"]:
        """Score the classes in each resample; the same images are drawn for whatever has as many of them."""
        return torch.cat([iou_of(part) for part in self._resampled(areas)])

    def _resampled(self, areas: Int[Tensor, "n *rest"]) -> Iterator[Float64[Tensor, "r *rest"]]:
        """Sum up the areas of the images of each resample, as products with how often each image was drawn."""
        num = len(areas)
        table = areas.cpu().double().flatten(1)  # sums of pixels stay below 2^53: they are exact in any order
        generator = torch.Generator().manual_seed(self.seed)
        step = max(1, _CHUNK // num)
        for start in range(0, self.resamples, step):
            count = min(step, self.resamples - start)
            draws = torch.randint(num, (count, num), generator=generator)
            places = (draws + torch.arange(0, count * num, num)[:, None]).flatten()
            weights = torch.bincount(places, minlength=count * num).view(count, num)
            yield (weights.double() @ table).view(count, *areas.shape[1:])

    def between(self, values: Float64[Tensor, " r"]) -> Interval:
        """Cut off both tails; resamples without a score are left out."""
        tail = (1 - self.level) / 2
        low, high = values.nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        return low, high


def check_same(ours: ImageAreas, theirs: ImageAreas) -> None:
    """See that two models were scored on the same images and labels.

    Raises:
        ValueError: the images, their order, or their labels are not the same; says where.
    """
    sizes = len(ours.ids), len(theirs.ids)
    if sizes[0] != sizes[1]:
        raise ValueError(f"models were scored on {sizes[0]} and {sizes[1]} images: expected the same images")
    for place, names in enumerate(zip(ours.ids, theirs.ids, strict=True)):
        if names[0] != names[1]:
            raise ValueError(f"image {place} is `{names[0]}` of one model and `{names[1]}` of the other")
    classes = ours.areas.shape[-1], theirs.areas.shape[-1]
    if classes[0] != classes[1]:
        raise ValueError(f"models were scored on {classes[0]} and {classes[1]} classes: expected the same")
    labelled = torch.stack((ours.areas[:, 1].cpu(), theirs.areas[:, 1].cpu()))
    differs = (labelled[0] != labelled[1]).nonzero().tolist()
    if differs:
        image, label = differs[0]
        here, there = labelled[:, image, label].tolist()
        raise ValueError(
            f"labels of image `{ours.ids[image]}` differ: class {label} has {here} and {there} pixels, "
            "expected the same labels for both models"
        )
