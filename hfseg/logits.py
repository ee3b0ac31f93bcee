"""Resizing logits to the size of labels: the only place where it is done."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

STRIP_ELEMENTS = 1 << 20
"""Resized logits that are held at once by the strip-wise functions: a million values, 4 MB in float32."""


def resize_logits(logits: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Float[Tensor, "b k h2 w2"]:
    """Resize logits bilinearly to `size` (height, width), half-pixel centres, no antialiasing."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Strip:
    """Some rows of the resized logits, and the rows of the logits that they are made from."""

    rows: slice
    source: slice
    above: Int[Tensor, " rows"]
    below: Int[Tensor, " rows"]
    """The two rows inside `source` between which each row lies."""
    weight: Float[Tensor, " rows"]
    """The share of `below`."""

    def resize(self, part: Float[Tensor, "b k source w"], width: int) -> Float[Tensor, "b k rows w2"]:
        """Resize the source rows of this strip; differentiable."""
        upper, lower = part.index_select(2, self.above), part.index_select(2, self.below)
        rows = torch.lerp(upper, lower, self.weight[:, None].to(part.dtype))
        return resize_logits(rows, (rows.shape[2], width))


def strips(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], *, max_elements: int = STRIP_ELEMENTS
) -> Iterator[Strip]:
    """Cut the logits at `size` (height, width) into strips of at most `max_elements` values, from top to bottom.

    Joined, the resized strips equal `resize_logits`; taken one at a time, memory does not grow with classes times
    pixels.
    """
    (source_height, _), (height, width) = logits.shape[-2:], size
    at_once = max(1, max_elements // (logits.shape[0] * logits.shape[1] * width))
    centres = (torch.arange(height, device=logits.device, dtype=torch.float64) + 0.5) * (source_height / height) - 0.5
    centres = centres.clamp(0, source_height - 1)
    above = centres.floor().long()
    below = (above + 1).clamp(max=source_height - 1)
    for start in range(0, height, at_once):
        rows = slice(start, min(start + at_once, height))
        first, last = (_source_row(row, source_height, height) for row in (rows.start, rows.stop - 1))
        source = slice(first, min(last + 2, source_height))
        weight = centres[rows] - above[rows]
        yield Strip(rows, source, above[rows] - first, below[rows] - first, weight)


def argmax_at(logits: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Int[Tensor, "b h2 w2"]:
    """Resize logits to `size` (height, width) and take the most likely class of each pixel, strip by strip."""
    if logits.shape[-2:] == size:
        return logits.argmax(1)
    pred = torch.empty((logits.shape[0], *size), dtype=torch.int64, device=logits.device)
    for strip in strips(logits, size):
        pred[:, strip.rows] = strip.resize(logits[:, :, strip.source], size[1]).argmax(1)
    return pred


def _source_row(row: int, source_height: int, height: int) -> int:
    """The upper of the two source rows of a row, as in `strips`, without asking the device."""
    return int(max(0.0, min((row + 0.5) * (source_height / height) - 0.5, source_height - 1)))
