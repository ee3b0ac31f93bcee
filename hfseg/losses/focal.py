"""Focal loss."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.losses.cross_entropy import beside, total_weight
from hfseg.losses.strip_sums import strip_total


def focal(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    gamma: float = 2.0,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Average -(1 - p)^gamma log p over the pixels that are not ignored, p the probability of the label.

    Classes exclude each other (softmax), and the average is over pixels; `class_weights` take the place of alpha and
    weight the average, as in cross entropy.
    Source: Lin et al., arXiv 1708.02002, eq. 4 and 5.
    """
    size = (labels.shape[-2], labels.shape[-1])
    weights = beside(logits, class_weights)

    def summed(resized: Tensor, rows: slice) -> Tensor:
        target = labels[:, rows].long()
        entropy = F.cross_entropy(resized, target, ignore_index=ignore_index, reduction="none")
        missing = -torch.expm1(-entropy)  # 1 - p, exact where p is close to 1
        values = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** gamma * entropy
        if weights is not None:
            values = values * weights[target.where(target != ignore_index, 0)]
        return values.sum()

    total = strip_total(logits, size, summed)
    return total / total_weight(labels, weights, ignore_index=ignore_index).to(total.dtype)
