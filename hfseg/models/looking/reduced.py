"""Global attention to a reduced map of keys: SegFormer, PVT v2.

Every query sees the whole image, through keys that each sum up a square of cells. They are made by a convolution whose
kernel is its stride, which leaves out the last rows and columns of a map that is no multiple of it; in the linear PVT
v2 they are 7 x 7 means.
Source: arXiv 2105.15203, eq. 2; arXiv 2106.13797.
"""

import math
from typing import Any

from hfseg.models.looking.listening import Family, Heard, all_places, heads_of, probabilities
from hfseg.models.looking.record import Place, View


def _look(heard: Heard, grid: tuple[int, int], place: Place) -> View:
    num_heads = heard.attention.num_attention_heads
    queries, keys = (output[0] for output in heard.outputs)
    query, keys = heads_of(queries[place[0] * grid[1] + place[1]], num_heads), heads_of(keys, num_heads)
    kind, key_grid, cells = _keys(heard.attention, grid)
    return View(
        kind=kind,
        key_grid=key_grid,
        key_cells=cells,
        cells=all_places(key_grid),
        weights=probabilities(query, keys, scale=keys.shape[-1] ** -0.5),
        placeless={},
    )


def _keys(attention: Any, grid: tuple[int, int]) -> tuple[str, tuple[int, int], tuple[float, float]]:
    """The attention in words, the grid of its keys, and the height and width of one in cells of the map."""
    if getattr(attention, "linear_attention", False):
        side = attention.pool.output_size
        return f"global, keys pooled to {side} x {side}", (side, side), (grid[0] / side, grid[1] / side)
    names = ("sequence_reduction_ratio", "spatial_reduction_ratio")
    ratio = next(getattr(attention, name) for name in names if hasattr(attention, name))
    kind = "global" if ratio == 1 else f"global, keys reduced {ratio} x {ratio}"
    return kind, (grid[0] // ratio, grid[1] // ratio), (float(ratio), float(ratio))


def _stride(config: Any, stage: int) -> int:
    return math.prod(config.strides[: stage + 1])


SEGFORMER = Family(block="SegformerAttention", listens=("q_proj", "k_proj"), look=_look, stride=_stride)
PVT_V2 = Family(block="PvtV2SelfAttention", listens=("query", "key"), look=_look, stride=_stride)
