"""The boundary bands of boundary IoU, of all classes of a label map at once.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021,
arXiv:2103.16562. Distances and the border of the image follow the authors' code (bowenc0221/boundary-iou-api): d
erosions by 3 x 3 pixels, outside of the image counting as another class. Ignored pixels are our own addition.
"""

import math

import torch
from jaxtyping import Int, Integer
from torch import Tensor

from hfseg.bands import boundary_band, pick

DIAGONAL_SHARE = 0.02
"""The authors' width of a band, as a share of the image's diagonal."""


def width_px(height: int, width: int, share: float = DIAGONAL_SHARE) -> int:
    """Give the width of a boundary band: a share of the image's diagonal, rounded, at least one pixel."""
    return max(1, round(share * math.hypot(height, width)))


def boundary_maps(
    pred: Int[Tensor, "b h w"], labels: Integer[Tensor, "b h w"], *, num_labels: int, ignore_index: int, distance: int
) -> tuple[Integer[Tensor, "b h w"], Integer[Tensor, "b h w"]]:
    """Keep the classes of both maps inside their boundary bands; elsewhere stands `num_labels`.

    What the labels ignore is left out of both maps, and is `num_labels + 1` in the labels that are returned. Counting
    these maps by label and prediction gives the areas of boundary IoU: the hit pixels lie in both bands.
    """
    kept = labels.to(torch.int32) != ignore_index  # among bytes, -100 would be 156
    narrow = torch.uint8 if num_labels + 1 <= 255 else torch.int32  # the work is bound by memory
    in_pred, in_labels = (
        pick(ids, boundary_band(ids, kept, distance=distance), num_labels)
        for ids in (pred.to(narrow), labels.to(narrow))
    )
    return in_pred, in_labels + ~kept
