"""Neighborhood attention: NAT, DiNAT. A query sees its window alone: `kernel_size`² cells, `dilation` apart.

At the edges the window is shifted inwards, and on maps smaller than its reach it lies partly on padding.
Source: arXiv 2204.07143, eq. 2 and 3; 2209.15001, eq. 2; edges and table as in NATTEN 0.17.
"""

from typing import Any

import torch

from hfseg.models.backbones.dinat import PATCH_SIZE
from hfseg.models.looking.listening import Family, Heard, heads_of, probabilities
from hfseg.models.looking.record import Place, View


def window(place: int, length: int, *, kernel_size: int, dilation: int) -> tuple[list[int], list[int]]:
    """Give the places that one of an axis of `length` sees, and their rows of the position table."""
    group, own = place % dilation, place // dilation
    last_start = -(-(length - group) // dilation) - kernel_size
    start = min(max(own - kernel_size // 2, 0), last_start)
    seen = range(start, start + kernel_size)
    return [each * dilation + group for each in seen], [each - own + kernel_size - 1 for each in seen]


def _look(heard: Heard, grid: tuple[int, int], place: Place) -> View:
    attention = heard.attention
    size, dilation = attention.kernel_size, attention.dilation
    queries, keys = (heads_of(output[0], attention.num_heads) for output in heard.outputs)
    (rows, table_rows), (columns, table_columns) = (
        window(own, length, kernel_size=size, dilation=dilation)
        for own, length in zip(place, queries.shape[1:3], strict=True)
    )
    cells = torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns))
    bias = None
    if attention.rpb is not None:
        bias = attention.rpb[:, table_rows][:, :, table_columns].flatten(1)
    return View(
        kind=f"neighborhood of {size} x {size}, dilation {dilation}",
        key_grid=grid,
        cells=cells,
        weights=probabilities(
            queries[:, place[0], place[1]],
            keys[:, cells[:, 0], cells[:, 1]],
            scale=queries.shape[-1] ** -0.5,
            bias=bias,
        ),
        placeless={},
        dilation=dilation,
    )


def _stride(_config: Any, stage: int) -> int:
    return PATCH_SIZE << stage


NEIGHBORHOOD = Family(
    block="AttentionModule", attention="self", listens=("self.query", "self.key"), look=_look, stride=_stride
)
