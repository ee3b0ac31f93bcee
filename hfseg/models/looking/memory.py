"""What one place of the current frame reads of the frames in memory, by the attention block of a model with memory.

The block stands behind the encoder, so that this is one more layer of attention, over frames in the place of heads. The
weights are the block's own, made for the points that are asked for alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hfseg.models.attention import Features, Reading
from hfseg.models.looking.record import Place, Point, check_points
from hfseg.models.segmenter import Segmenter, evaluating
from hfseg.models.tmanet import TmanetForSemanticSegmentation


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """What one place takes from one grid of cells over the frames, on the host."""

    what: str
    """The read in words."""
    softmax: int
    """Number of the softmax, from 0: the weights of all maps of one sum to 1."""
    ages: tuple[range, ...]
    """Of each part of `weights` the frames it stands for, by how many places of the clip before the current one they
    are; 0 is the current frame."""
    weights: Float[Tensor, "t rows columns"]
    """NaN where the place does not look. Cells lie evenly over the map of `grid`, whatever their number."""
    grid: tuple[int, int]
    """Rows and columns of the current frame's map."""
    stride: int
    """Pixels between two places of it."""
    query: Place
    point: Point
    """The pixel (x, y) that was asked for."""

    @property
    def shares(self) -> Float[Tensor, " t"]:
        """What is taken from each frame."""
        return self.weights.nansum((1, 2))

    @property
    def cell_px(self) -> tuple[float, float]:
        """Height and width of a cell, in pixels."""
        rows, columns = self.weights.shape[1:]
        return self.grid[0] * self.stride / rows, self.grid[1] * self.stride / columns

    @property
    def distances(self) -> Float[Tensor, "rows columns"]:
        """Distance of each cell from the query's place, in pixels between centres."""
        rows, columns = (
            (torch.arange(count) + 0.5) * cell - (own + 0.5) * self.stride
            for count, cell, own in zip(self.weights.shape[1:], self.cell_px, self.query, strict=True)
        )
        return torch.hypot(rows[:, None], columns[None])

    @property
    def distance_px(self) -> Float[Tensor, " t"]:
        """Mean distance of what is read in each frame from the query's place, in pixels, weighted."""
        summed = (self.weights.nan_to_num() * self.distances).sum((1, 2))
        return summed / self.shares.clamp(min=torch.finfo(summed.dtype).tiny)


@torch.no_grad()
def memory_maps(
    segmenter: Segmenter, pixel_values: Float[Tensor, "1 *t 3 h w"], *, points: Sequence[Point]
) -> list[MemoryMap]:
    """Find what the cells of the current frame at `points` read of a clip, the oldest frame first.

    Nothing where the model has no memory, or its block has no weights of places (`psp`), or reads no other frame.

    Raises:
        DataError: a point lies outside the frames.
    """
    check_points(points, (pixel_values.shape[-2], pixel_values.shape[-1]))
    hf = segmenter.hf
    if not isinstance(hf, TmanetForSemanticSegmentation):
        return []
    clip = pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]
    block = hf.decode_head.block
    with evaluating(segmenter):
        frames = hf.encode(segmenter.normalize(clip[0]))
        assert frames.low is not None
        assert hf.config.output_stride is not None
        memory = Features(frames.high[None, :-1], frames.low[None, :-1])
        past = block.encode(memory) if block.reads_memory and clip.shape[1] > 1 else None
        prepared = block.prepare(Features(frames.high[-1:], frames.low[-1:]))
        gathered = block.gather(prepared, past)
        grid, stride = (frames.high.shape[2], frames.high.shape[3]), hf.config.output_stride
        newest = 0 if block.includes_current or past is None else 1
        found = []
        for x, y in points:
            place = min(int(y) // stride, grid[0] - 1), min(int(x) // stride, grid[1] - 1)
            for number, reading in enumerate(block.readings(prepared, gathered, place)):
                for ages, weights in _parts(reading, newest):
                    what = reading.what
                    found.append(MemoryMap(what, number, ages, weights, grid, stride, place, (x, y)))
    return found


def _parts(reading: Reading, newest: int) -> Iterator[tuple[tuple[range, ...], Tensor]]:
    """Give the grids of a reading with the ages of its frames; `newest` is that of the last frame that is read."""
    last = reading.frames[-1].stop - 1 + newest
    ages = tuple(range(last - each.stop + 1, last - each.start + 1) for each in reading.frames)
    yield from ((ages, weights.float().cpu()) for weights in reading.grids)
