"""How much of each class was hit, missed and wrongly claimed, as soft counts: what Dice and Tversky are made of."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from hfseg.losses.strip_sums import strip_sums


class Regions(NamedTuple):
    """Sums over the pixels of a batch that are not ignored, by class."""

    shared: Float[Tensor, " k"]
    """Probability of the class where it is labelled."""
    predicted: Float[Tensor, " k"]
    """Probability of the class everywhere."""
    labelled: Float[Tensor, " k"]
    """Pixels that carry the class."""

    @property
    def present(self) -> Bool[Tensor, " k"]:
        """The classes that are labelled at all."""
        return self.labelled > 0

    def mean(self, losses: Float[Tensor, " k"]) -> Float[Tensor, ""]:
        """Average over the classes that are labelled; 0 where there are none."""
        return torch.where(self.present, losses, 0).sum() / self.present.sum().clamp(min=1)


def soft_regions(logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h2 w2"], *, ignore_index: int) -> Regions:
    """Count in strips, so that probabilities at full size do not exist as a whole."""
    num_labels = logits.shape[1]

    def counted(resized: Tensor, rows: slice) -> Tensor:
        target = labels[:, rows].long()
        kept = target != ignore_index
        probabilities = resized.softmax(1) * kept[:, None]
        own = probabilities.gather(1, target.where(kept, 0)[:, None])[:, 0]
        places = target.where(kept, 0).flatten()
        shared = own.new_zeros(num_labels).index_add(0, places, own.flatten())
        return torch.cat([shared, probabilities.sum((0, 2, 3))])

    size = (labels.shape[-2], labels.shape[-1])
    shared, predicted = strip_sums(logits, size, counted).chunk(2)
    return Regions(shared, predicted, class_pixels(labels, num_labels, ignore_index=ignore_index).to(shared.dtype))


def class_pixels(labels: Integer[Tensor, "b h w"], num_labels: int, *, ignore_index: int) -> Int[Tensor, " k"]:
    """Count the pixels of each class that are not ignored; shapes do not depend on the labels, nor is a device waited
    for.
    """
    kept = labels.int() != ignore_index
    places = labels.long().where(kept, 0).flatten()
    return places.new_zeros(num_labels).index_add(0, places, kept.long().flatten())
