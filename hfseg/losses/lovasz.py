"""Lovasz-softmax: a convex surrogate of 1 - IoU."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from hfseg.logits import resize_logits


def lovasz(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h2 w2"], *, ignore_index: int
) -> Float[Tensor, ""]:
    """Average the Lovasz extension of the Jaccard loss over the classes that are labelled in the batch.

    Errors of all pixels of a class are sorted together, so logits at full size are held; 0 where nothing is labelled.
    Source: Berman et al., arXiv 1705.08790, eq. 9 and algorithm 1; classes that are present, over the whole batch.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = resize_logits(precise, (labels.shape[-2], labels.shape[-1])).softmax(1)
    kept = labels.int() != ignore_index
    target = labels[kept].long()
    probabilities = probabilities.movedim(1, -1)[kept]
    present = target.unique().tolist()
    losses = [_extension((target == c).to(precise.dtype), probabilities[:, c]) for c in present]
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _extension(is_class: Float[Tensor, " n"], probability: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Weight the errors of one class, from large to small, by what each adds to the Jaccard loss."""
    errors, order = (is_class - probability).abs().sort(descending=True)
    sorted_class = is_class[order]
    intersection = sorted_class.sum() - sorted_class.cumsum(0)
    union = sorted_class.sum() + (1 - sorted_class).cumsum(0)
    jaccard = 1 - intersection / union
    return errors @ jaccard.diff(prepend=jaccard.new_zeros(1))
