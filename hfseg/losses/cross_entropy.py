"""Cross entropy at the labels' own size, in strips."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.losses.strip_sums import strip_total


def cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    class_weights: Float[Tensor, " k"] | None = None,
    label_smoothing: float = 0.0,
    max_elements: int | None = None,
) -> Float[Tensor, ""]:
    """Average the cross entropy over the pixels that are not ignored; 0 where there are none.

    With `class_weights` it is the weighted average by the weight of each pixel's label. `label_smoothing` is the share
    of the target that is spread evenly over all classes.
    Source: Szegedy et al., arXiv 1512.00567, section 7, for the smoothing; conventions of torch's `cross_entropy`.
    """
    size = (labels.shape[-2], labels.shape[-1])
    weights = beside(logits, class_weights)

    def summed(resized: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(
            resized,
            labels[:, rows].long(),
            weight=weights,
            ignore_index=ignore_index,
            reduction="sum",
            label_smoothing=label_smoothing,
        )

    total = strip_total(logits, size, summed, max_elements=max_elements)
    return total / total_weight(labels, weights, ignore_index=ignore_index).to(total.dtype)


def total_weight(
    labels: Integer[Tensor, "b h w"], class_weights: Float[Tensor, " k"] | None, *, ignore_index: int
) -> Tensor:
    """Add up the weights of the pixels that are not ignored; 1 where there is nothing to weigh."""
    return positive(weight_of(labels, class_weights, where=labels.int() != ignore_index))


def weight_of(
    labels: Integer[Tensor, "b h w"], class_weights: Float[Tensor, " k"] | None, *, where: Bool[Tensor, "b h w"]
) -> Tensor:
    """Add up the weights of some pixels by their labels, each 1 without `class_weights`."""
    if class_weights is None:
        return where.sum()
    return (class_weights[labels.long().where(where, 0)] * where).sum()


def positive(weight: Tensor) -> Tensor:
    """Put 1 for a total weight of 0, by which nothing can be divided."""
    return torch.where(weight > 0, weight, 1)


def beside(logits: Float[Tensor, "b k h w"], class_weights: Float[Tensor, " k"] | None) -> Float[Tensor, " k"] | None:
    """Bring the weights to where the logits are, in the precision in which these are scored."""
    if class_weights is None:
        return None
    return class_weights.to(logits.device, torch.promote_types(logits.dtype, torch.float32))
