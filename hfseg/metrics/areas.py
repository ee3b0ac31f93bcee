"""Areas of classes: the three pixel counts that every score here is made of."""

import torch
from jaxtyping import Float64, Int, Shaped
from torch import Tensor


def areas_of(matrix: Int[Tensor, "*b k k"]) -> Int[Tensor, "*b 3 k"]:
    """Take from confusion matrices (rows labels) how many pixels of each class were hit, labelled and predicted."""
    return torch.stack((matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)), dim=-2)


def iou_of(areas: Shaped[Tensor, "*b 3 k"]) -> Float64[Tensor, "*b k"]:
    """Divide intersection by union; NaN where a class is neither labelled nor predicted."""
    hits, labelled, predicted = areas.double().unbind(-2)
    return hits / (labelled + predicted - hits)


def accuracy_of(areas: Shaped[Tensor, "*b 3 k"]) -> Float64[Tensor, "*b"]:
    """Divide the hit pixels of all classes by the labelled ones; NaN without any."""
    hits, labelled, _ = areas.double().unbind(-2)
    return hits.sum(-1) / labelled.sum(-1)
