"""Pyramid sampling: a frame as a few averages over the cells of grids, coarse to fine.

Source: Zhu et al., Asymmetric Non-local Neural Networks for Semantic Segmentation, arXiv 1908.07678; He et al., Spatial
Pyramid Pooling, arXiv 1406.4729. Cells are those of PyTorch's adaptive average pooling: they overlap where a grid does
not divide the map, and repeat where the map is smaller than the grid.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

Grids = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Cells on a side of each grid, as a setting: at least one grid."""
ANN_GRIDS = (1, 3, 6, 8)
"""Cells on a side of each grid in asymmetric non-local nets: 110 in all."""


def cells(grids: Sequence[int]) -> int:
    """Count the cells of all grids."""
    return sum(side**2 for side in grids)


def sample(maps: Float[Tensor, "b c h w"], grids: Sequence[int]) -> Float[Tensor, "b c s"]:
    """Average the cells of every grid, one grid after the other, each row by row."""
    return torch.cat([F.adaptive_avg_pool2d(maps, side).flatten(2) for side in grids], dim=2)


def bin_frames(sampled: Float[Tensor, "b t c s"], bins: int | None) -> Float[Tensor, "b bins c s"]:
    """Average neighbouring frames to so many bins at most, so that cells are boxes in space and time; None keeps all.

    The average over a box is the average of its frames' averages, so this equals three-dimensional adaptive pooling of
    the maps to `bins` x side x side, and frames can be sampled one by one.
    """
    if bins is None or bins >= sampled.shape[1]:
        return sampled
    lines = sampled.permute(0, 2, 3, 1).flatten(1, 2)
    averaged: Tensor = F.adaptive_avg_pool1d(lines, bins).unflatten(1, sampled.shape[2:]).permute(0, 3, 1, 2)
    return averaged


def bin_spans(frames: int, bins: int | None) -> tuple[range, ...]:
    """Give the numbers of the frames that each bin of `bin_frames` averages."""
    count = frames if bins is None else min(bins, frames)
    return tuple(range(place * frames // count, -(-(place + 1) * frames // count)) for place in range(count))
