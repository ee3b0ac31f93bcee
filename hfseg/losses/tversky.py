"""Tversky loss: Dice with wrong and missed pixels weighted differently."""

from jaxtyping import Float, Integer
from torch import Tensor

from hfseg.losses.regions import soft_regions

SMOOTH = 1.0
"""Added to both sides of the fraction, in pixels."""


def tversky(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
) -> Float[Tensor, ""]:
    """Average 1 - (t + 1) / (t + a f + b m + 1) over the classes that are labelled in the batch.

    t, f and m are the soft counts of hit, wrongly claimed and missed pixels of a class; `false_positive` is a and
    `false_negative` is b. With 0.5 for both it is Dice with half its smoothing.
    Source: Salehi et al., arXiv 1706.05721, eq. 4; a = 0.3 and b = 0.7 were their best.
    """
    found = soft_regions(logits, labels, ignore_index=ignore_index)
    wrong, missed = found.predicted - found.shared, found.labelled - found.shared
    fraction = (found.shared + SMOOTH) / (found.shared + false_positive * wrong + false_negative * missed + SMOOTH)
    return found.mean(1 - fraction)
