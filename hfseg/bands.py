"""Bands along the boundaries of a label map: what boundary IoU counts in, and what the boundary loss weighs."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F


def boundary_band(
    ids: Integer[Tensor, "b h w"], kept: Bool[Tensor, "b h w"], *, distance: int, at_border: bool = True
) -> Bool[Tensor, "b h w"]:
    """Find the kept pixels at most `distance` away from a kept pixel of another class.

    The distance is that of the chessboard (Chebyshev): the larger one of rows and columns. What is not kept belongs to
    no band and makes none: an object beside ignored pixels has no boundary there. Kept ids are not negative. With
    `at_border`, what lies outside of the image counts as another class; otherwise it makes no band.

    The largest and the smallest id in a window of `2 distance + 1` pixels differ where two classes meet in it; windows
    grow by doubling, so that a wide band costs little more than a narrow one.
    """
    size = 2 * distance + 1
    if at_border and min(ids.shape[-2:]) < size:
        return kept
    ids = ids if ids.dtype == torch.uint8 else ids.int()  # padding goes through float64, which cannot hold 2^63 - 1
    lowest, highest = 0, torch.iinfo(ids.dtype).max
    largest, smallest = pick(ids, kept, lowest), pick(ids, kept, highest)
    if not at_border:
        largest, smallest = (
            F.pad(values, (distance,) * 4, value=outside)
            for values, outside in ((largest, lowest), (smallest, highest))
        )
    for dim in (-2, -1):
        largest = _in_window(largest, torch.maximum, size=size, dim=dim)
        smallest = _in_window(smallest, torch.minimum, size=size, dim=dim)
    if not at_border:
        return kept & (largest != smallest)
    band = kept.clone()
    band[:, distance:-distance, distance:-distance] &= largest != smallest  # any other window reaches outside
    return band


def pick(ids: Integer[Tensor, "b h w"], where: Bool[Tensor, "b h w"], other: int) -> Integer[Tensor, "b h w"]:
    """Put `other` where `where` does not hold: on bytes on a CPU, 15 times faster than `torch.where`."""
    mask = where.to(ids.dtype)
    return ids * mask + other * (1 - mask)


def _in_window(
    values: Shaped[Tensor, "b h w"], extreme: Callable[[Tensor, Tensor], Tensor], *, size: int, dim: int
) -> Shaped[Tensor, "b h2 w2"]:
    """Take the extreme of each `size` neighbours along one dimension, which loses `size - 1` places."""
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        places = values.shape[dim] - step
        values = extreme(values.narrow(dim, 0, places), values.narrow(dim, step, places))
        reach += step
    return values
