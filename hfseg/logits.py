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
GATHERED_ELEMENTS = 1 << 18
"""Logits of single pixels that are gathered at once on a CPU, several times for each of them: 1 MB in float32."""


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
    """The two rows inside `source` between which each row lies; on the host, as `weight` is."""
    weight: Float[Tensor, " rows"]
    """The share of `below`."""

    @classmethod
    def cut(cls, rows: slice, *, source_height: int, height: int) -> "Strip":
        """Find what `rows` of logits that are resized from `source_height` to `height` are made from."""
        above, below, weight = _between(rows.start, rows.stop, source=source_height, target=height)
        first = int(above[0])
        return cls(rows, slice(first, int(below[-1]) + 1), above - first, below - first, weight)

    def resize(self, part: Float[Tensor, "b k source w"], width: int) -> Float[Tensor, "b k rows w2"]:
        """Resize the source rows of this strip; differentiable."""
        rows = _lerp(part, 2, self.above, self.below, self.weight[:, None])
        return resize_logits(rows, (rows.shape[2], width))

    def argmax(self, part: Float[Tensor, "b k source w"], width: int) -> Int[Tensor, "b rows w2"]:
        """Find the most likely class of each pixel of the resized strip.

        On a CPU only the pixels at which two classes meet are computed: logits are linear between two columns, so
        where both columns have the same winner, every pixel between them has it too. Elsewhere all are, because the
        host would have to wait to learn which.
        """
        if part.device.type != "cpu":
            return self.resize(part, width).max(1).indices
        classes_last = part.permute(0, 2, 3, 1).contiguous()
        rows = _lerp(classes_last, 1, self.above, self.below, self.weight[:, None, None])
        left, right, weight = _between(0, width, source=rows.shape[2], target=width)
        winners = rows.argmax(-1)
        pred = winners.index_select(2, left)
        contested = (pred != winners.index_select(2, right)).flatten().nonzero()[:, 0]
        columns, pixels, flat_pred = rows.shape[2], rows.flatten(0, 2), pred.view(-1)
        for places in contested.split(max(1, GATHERED_ELEMENTS // rows.shape[3])):
            line, column = places // width, places % width
            one, other = line * columns + left[column], line * columns + right[column]
            flat_pred[places] = _lerp(pixels, 0, one, other, weight[column][:, None]).argmax(-1)
        return pred


def strips(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], *, max_elements: int | None = None
) -> Iterator[Strip]:
    """Cut the logits at `size` (height, width) into strips of at most `max_elements` values, from top to bottom.

    Joined, the resized strips equal `resize_logits`; taken one at a time, memory does not grow with classes times
    pixels. The device is not waited for.
    """
    num_maps = logits.shape[0] * logits.shape[1]
    for rows in strip_rows(num_maps * size[1], size[0], device=logits.device, max_elements=max_elements):
        yield Strip.cut(rows, source_height=logits.shape[2], height=size[0])


def strip_rows(elements: int, height: int, *, device: torch.device, max_elements: int | None = None) -> Iterator[slice]:
    """Part `height` rows of `elements` values each into runs of at most `max_elements`, or what suits the device."""
    if max_elements is None:
        max_elements = CACHED_ELEMENTS if device.type == "cpu" else LAUNCHED_ELEMENTS
    at_once = max(1, max_elements // elements)
    for start in range(0, height, at_once):
        yield slice(start, min(start + at_once, height))


def _between(
    start: int, stop: int, *, source: int, target: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Give the two rows of `source` between which rows `start` to `stop` of `target` lie, and the share of the second.

    A row that lies on another one has it twice. Computed on the host, in float64.
    """
    centres = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    centres = centres.clamp(0, source - 1)
    first = centres.long()
    weight = centres - first
    return first, first + weight.ceil().long(), weight


def _lerp(
    values: Float[Tensor, "..."],
    dim: int,
    first: Int[Tensor, " n"],
    second: Int[Tensor, " n"],
    weight: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Interpolate between entries of `values` along `dim`; `weight` is the share of `second`."""
    one, other = (values.index_select(dim, places.to(values.device)) for places in (first, second))
    return torch.lerp(one, other, weight.to(values.dtype).to(values.device))
