"""Soft Dice over classes."""

from jaxtyping import Float, Integer
from torch import Tensor

from hfseg.losses.regions import soft_regions

SMOOTH = 1.0
"""Added to both sides of the fraction, in pixels."""


def dice(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h2 w2"], *, ignore_index: int
) -> Float[Tensor, ""]:
    """Average 1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1) over the classes that are labelled in the batch.

    p are probabilities at the labels' size and y is 1 where the class is labelled, both summed over the pixels of the
    batch that are not ignored; 0 where there are none.
    Source: Milletari et al., V-Net, arXiv 1606.04797, with p and y in place of their squares.
    """
    found = soft_regions(logits, labels, ignore_index=ignore_index)
    return found.mean(1 - (2 * found.shared + SMOOTH) / (found.predicted + found.labelled + SMOOTH))
