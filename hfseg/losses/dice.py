"""Soft Dice over classes."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from hfseg.logits import resize_logits

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
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = resize_logits(precise, (labels.shape[-2], labels.shape[-1])).softmax(1)
    labels = labels.long()
    kept = labels != ignore_index
    onehot = F.one_hot(labels.where(kept, 0), logits.shape[1]).movedim(-1, 1) * kept[:, None]
    shared = (probabilities * onehot).sum((0, 2, 3))
    predicted, labelled = (probabilities * kept[:, None]).sum((0, 2, 3)), onehot.sum((0, 2, 3))
    present = labelled > 0
    losses = 1 - (2 * shared + SMOOTH) / (predicted + labelled + SMOOTH)
    return torch.where(present, losses, 0).sum() / present.sum().clamp(min=1)
