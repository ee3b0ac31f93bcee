"""Cross entropy over hard pixels only (online hard example mining)."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.logits import strips
from hfseg.losses.cross_entropy import beside, total_weight
from hfseg.losses.strip_sums import strip_total


def ohem(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    class_weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Average the cross entropy over the pixels whose label has a probability below `threshold`.

    At least the share `min_kept` of the labelled pixels is kept, those with the lowest probability. Which pixels these
    are is not differentiated.
    Source: Shrivastava et al., arXiv 1604.03540; threshold and least number as in mmsegmentation's `OHEMPixelSampler`,
    the number as a share, since batches differ in size.
    """
    size = (labels.shape[-2], labels.shape[-1])
    weights = beside(logits, class_weights)
    hard = _hard_pixels(logits.detach(), labels, ignore_index, threshold=threshold, min_kept=min_kept)
    chosen = labels.long().where(hard, ignore_index)

    def summed(resized: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(resized, chosen[:, rows], weight=weights, ignore_index=ignore_index, reduction="sum")

    total = strip_total(logits, size, summed)
    return total / total_weight(chosen, weights, ignore_index=ignore_index).to(total.dtype)


def _hard_pixels(
    logits: Tensor, labels: Tensor, ignore_index: int, *, threshold: float, min_kept: float
) -> Bool[Tensor, "b h w"]:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    entropy = torch.empty(labels.shape, dtype=precise.dtype, device=labels.device)
    for strip in strips(precise, (labels.shape[-2], labels.shape[-1])):
        resized = strip.resize(precise[:, :, strip.source], labels.shape[-1])
        target = labels[:, strip.rows].long()
        entropy[:, strip.rows] = F.cross_entropy(resized, target, ignore_index=ignore_index, reduction="none")
    kept = labels.int() != ignore_index
    hardness = entropy.where(kept, -1.0)  # an ignored pixel is easier than any other
    least = (kept.sum() * min_kept).ceil().long().clamp(min=1)
    hardest = hardness.flatten().sort(descending=True).values[least - 1]
    limit = torch.minimum(hardest, -torch.log(hardness.new_tensor(threshold)).nextafter(hardness.new_tensor(torch.inf)))
    return kept & (hardness >= limit)
