"""Sliding windows: where they lie, and the canvas that they make together."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from hfseg.engine.canvas import Canvas, Whole
from hfseg.logits import Strip


def slide(
    model: nn.Module,
    pixel_values: Shaped[Tensor, "b *t 3 h w"],
    *,
    crop: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
) -> Canvas:
    """Show images, or clips, to a model window by window, `batch_size` windows at once.

    Windows are `crop` (height, width) large and `stride` apart; along a side that is shorter than the crop they are as
    long as the image. An image that one window covers is seen whole.

    Source: `slide_inference` of mmsegmentation's `EncoderDecoder`: the last window of a row or column is shifted back
    into the image, and logits are averaged at the resolution of the image.
    """
    num_images, (height, width) = len(pixel_values), pixel_values.shape[-2:]
    window = min(crop[0], height), min(crop[1], width)
    if window == (height, width):
        return Whole(model(pixel_values))
    tops, lefts = window_starts(height, crop[0], stride[0]), window_starts(width, crop[1], stride[1])
    places = list(product(tops, lefts, range(num_images)))
    logits: Tensor | None = None
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        cut = [pixel_values[i, ..., top : top + window[0], left : left + window[1]] for top, left, i in batch]
        said = model(torch.stack(cut)).logits
        if logits is None:
            logits = said.new_empty((len(places), *said.shape[1:]))
        logits[start : start + len(batch)] = said
    assert logits is not None
    return Windows(logits.unflatten(0, (len(tops), len(lefts), num_images)), tops, lefts, window)


def window_starts(length: int, crop: int, stride: int) -> tuple[int, ...]:
    """Give where windows of `crop` pixels begin along a side of `length` pixels, the last one shifted inwards."""
    last = max(0, length - crop)
    return tuple(min(start, last) for start in range(0, last + stride, stride))


@dataclass(frozen=True)
class Windows:
    """A grid of windows, kept at the decoder's stride: their mean at the resolution of the images."""

    logits: Float[Tensor, "rows columns b k h w"]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    window: tuple[int, int]
    """Height and width of a window in pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, classes, height and width."""
        b, k = self.logits.shape[2:4]
        return b, k, self.tops[-1] + self.window[0], self.lefts[-1] + self.window[1]

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.logits.device

    def rows(self, rows: slice) -> Float[Tensor, "b k rows w"]:
        """Give the scores of some rows."""
        b, k, height, width = self.shape
        total = self.logits.new_zeros((b, k, rows.stop - rows.start, width))
        for inside, scores in self._resized(rows):
            for left, window in zip(self.lefts, scores, strict=True):
                total[:, :, inside, left : left + self.window[1]] += window
        down = _overlaps(self.tops, self.window[0], height)[rows]
        across = _overlaps(self.lefts, self.window[1], width)
        return total.div_((down[:, None] * across).to(total.device))

    def _resized(self, rows: slice) -> Iterator[tuple[slice, Float[Tensor, "columns b k part w"]]]:
        """Resize each row of windows where it meets `rows`; gives the part of `rows` too."""
        height, width = self.window
        for top, line in zip(self.tops, self.logits, strict=True):
            start, stop = max(rows.start, top), min(rows.stop, top + height)
            if start < stop:
                part = slice(start - top, stop - top)
                strip = Strip.cut(part, source_height=line.shape[3], height=height)
                scores = strip.resize(line[..., strip.source, :].flatten(0, 1), width)
                yield slice(start - rows.start, stop - rows.start), scores.unflatten(0, line.shape[:2])


def _overlaps(starts: tuple[int, ...], length: int, whole: int) -> Int[Tensor, " n"]:
    """Count the windows over each of `whole` rows or columns."""
    counts = torch.zeros(whole, dtype=torch.int64)
    for start in starts:
        counts[start : start + length] += 1
    return counts
