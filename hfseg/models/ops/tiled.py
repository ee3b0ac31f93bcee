"""Tiles all at once, in plain PyTorch: for any device, for compilers, and for XLA.

A few queries that lie together attend to nearly the same keys, so one dense product serves them all; a bias of -inf
takes out the keys that are not in a query's window. Dilation groups are tiles like any others. Every step is one
operation over all tiles, so there is nothing to unroll; the scores of all tiles exist at once, which `lean` avoids.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hfseg.models.ops.windows import cut_tiles

TILE = 8
"""Queries on a side of a tile."""
SDPA_TILE = 10
"""The same for the fused operator, whose bias wants rows of a multiple of 8: with kernel 7, 16 x 16 keys."""


def attend(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Average the values of each window by dense products over tiles. Half types have their softmax in float32."""
    return _attend(query, key, value, rpb=rpb, kernel_size=kernel_size, dilation=dilation, fused=False)


def attend_fused(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Average the values of each window, tile by tile through PyTorch's `scaled_dot_product_attention`."""
    return _attend(query, key, value, rpb=rpb, kernel_size=kernel_size, dilation=dilation, fused=True)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, rpb: Tensor | None, kernel_size: int, dilation: int, fused: bool
) -> Tensor:
    height, width = query.shape[2:4]
    tile = SDPA_TILE if fused else TILE
    tiles = cut_tiles(height, width, kernel_size=kernel_size, dilation=dilation, tile=tile, device=query.device)
    queries, keys, values = (
        _take(each, places) for each, places in ((query, tiles.queries), (key, tiles.keys), (value, tiles.keys))
    )
    bias = _bias(rpb, query, tiles.tables, (2 * kernel_size - 1) ** 2).index_select(1, tiles.kinds)
    if fused:
        averages = scaled_dot_product_attention(queries, keys, values, attn_mask=bias.to(query.dtype))
    else:
        scores = torch.matmul(queries * query.shape[-1] ** -0.5, keys.mT)
        averages = torch.matmul((scores + bias).softmax(-1).to(value.dtype), values)
    ordered: Tensor = averages.flatten(2, 3).index_select(2, tiles.back).unflatten(2, (height, width))
    return ordered


def _take(whole: Float[Tensor, "b heads h w d"], places: Int[Tensor, "tiles n"]) -> Float[Tensor, "b heads tiles n d"]:
    taken: Tensor = whole.flatten(2, 3).index_select(2, places.flatten()).unflatten(2, places.shape)
    return taken


def _bias(
    rpb: Float[Tensor, "heads r r"] | None, query: Tensor, tables: Int[Tensor, "kinds q s"], places: int
) -> Float[Tensor, "any_heads kinds q s"]:
    """The bias of every kind of tile: the table's values, -inf outside the windows; one head stands for all without."""
    kept = torch.float64 if query.dtype == torch.float64 else torch.float32
    rows = query.new_zeros(1, places, dtype=kept) if rpb is None else rpb.flatten(1).to(kept)
    extended = torch.cat([rows, rows.new_full((len(rows), 1), -torch.inf)], dim=1)
    bias: Tensor = extended.index_select(1, tables.flatten()).unflatten(1, tables.shape)
    return bias
