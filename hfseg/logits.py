"""Resizing logits to the size of labels: the only place where it is done."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CACHED_ELEMENTS, LAUNCHED_ELEMENTS = 1 << 20, 1 << 25
"""Resized logits that are held at once by the strip-wise functions: on a CPU a million values (4 MB in float32, which
stay in its cache), elsewhere 32 million (128 MB), because there every launch costs the same however small the strip."""


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
        rows = torch.lerp(upper, lower, self.weight[:, None])
        return resize_logits(rows, (rows.shape[2], width))


def strips(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], *, max_elements: int | None = None
) -> Iterator[Strip]:
    """Cut the logits at `size` (height, width) into strips of at most `max_elements` values, from top to bottom.

    Joined, the resized strips equal `resize_logits`; taken one at a time, memory does not grow with classes times
    pixels. The device is not waited for.
    """
    if max_elements is None:
        max_elements = CACHED_ELEMENTS if logits.device.type == "cpu" else LAUNCHED_ELEMENTS
    (source_height, _), (height, width) = logits.shape[-2:], size
    at_once = max(1, max_elements // (logits.shape[0] * logits.shape[1] * width))
    centres = (torch.arange(height, dtype=torch.float64) + 0.5) * (source_height / height) - 0.5  # on the host
    centres = centres.clamp(0, source_height - 1)
    above = centres.long()
    below = (above + 1).clamp(max=source_height - 1)
    for start in range(0, height, at_once):
        rows = slice(start, min(start + at_once, height))
        source = slice(int(above[rows.start]), int(below[rows.stop - 1]) + 1)
        places = (above[rows] - source.start).to(logits.device), (below[rows] - source.start).to(logits.device)
        weight = (centres[rows] - above[rows]).to(logits.dtype).to(logits.device)
        yield Strip(rows, source, *places, weight)


def argmax_at(logits: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Int[Tensor, "b h2 w2"]:
    """Resize logits to `size` (height, width) and take the most likely class of each pixel, strip by strip."""
    pred = torch.empty((logits.shape[0], *size), dtype=torch.int64, device=logits.device)
    for strip in strips(logits, size):
        resized = strip.resize(logits[:, :, strip.source], size[1])
        pred[:, strip.rows] = resized.max(1).indices  # twice as fast as argmax over this dimension on a CPU
    return pred
