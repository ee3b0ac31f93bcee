"""Tiles one handful at a time, with a backward pass of its own: quick on a CPU, and lean.

A few queries that lie together attend to nearly the same keys, so a small dense product serves them all; a bias of
-inf takes out the keys that are not in a query's window. A handful of tiles stays in the processor's cache from the
scores to the averages, and nothing of the size of the scores is kept: the backward pass computes them again from the
logarithm of their sum, as FlashAttention does (Dao et al., arXiv 2205.14135).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hfseg.models.ops.windows import cut_tiles

TILE = 4
"""Queries on a side of a tile. Larger tiles have fewer keys per query to fetch and more scores to throw away."""
HANDFUL = 2**17
"""Scores computed at once: half a megabyte of float32."""
LOG2_E = math.log2(math.e)
"""Scores are kept in base 2: `exp2` takes a twelfth of the time of `exp`, which is slow for -inf on a CPU."""


def attend(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Average the values of each window, a handful of tiles at a time. Half types are computed in float32."""
    averages: Tensor = _forward(query, key, value, rpb, kernel_size, dilation)[0]
    return averages


@torch.library.custom_op("hfseg::neighborhood_attention", mutates_args=())
def _forward(
    query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Give the averages, and the base-2 logarithm of the sum of the exponentials of each query's scores."""
    flat_query, flat_key, flat_value = (each.reshape(-1, each.shape[-1]) for each in (query, key, value))
    averages = torch.empty(flat_query.shape, dtype=_work_type(query), device=query.device)
    log_sums = averages.new_empty(len(averages))
    with torch.autocast(query.device.type, enabled=False):  # or it would turn the products to half precision
        for few in _handfuls(query, rpb, kernel_size, dilation):
            queries, keys, values = (
                _take(flat_query, few.queries),
                _take(flat_key, few.keys),
                _take(flat_value, few.keys),
            )
            scores = few.bias().baddbmm_(queries.mul_(LOG2_E * query.shape[-1] ** -0.5), keys.mT)
            largest = scores.amax(-1, keepdim=True)
            weights = scores.sub_(largest).exp2_()
            sums = weights.sum(-1, keepdim=True)
            places = few.queries.flatten()
            averages.index_copy_(0, places, torch.bmm(weights, values).div_(sums).flatten(0, 1))
            log_sums.index_copy_(0, places, largest.add_(sums.log2_()).flatten())
    return averages.to(query.dtype).view(query.shape), log_sums


@torch.library.custom_op("hfseg::neighborhood_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, averages: Tensor, log_sums: Tensor,
    query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Give the gradients of query, key, value and table; the last is empty without a table."""
    flat_query, flat_key, flat_value, flat_gradient = (
        each.reshape(-1, each.shape[-1]) for each in (query, key, value, gradient)
    )
    d_query, d_key, d_value = (torch.zeros_like(flat_query, dtype=_work_type(query)) for _ in range(3))
    d_table = d_query.new_zeros(query.shape[1], (2 * kernel_size - 1) ** 2 + 1)
    inner = (gradient.to(d_query.dtype) * averages.to(d_query.dtype)).sum(-1).flatten()
    scale = query.shape[-1] ** -0.5
    with torch.autocast(query.device.type, enabled=False):  # or it would turn the products to half precision
        for few in _handfuls(query, rpb, kernel_size, dilation):
            queries, keys, values = (
                _take(flat_query, few.queries),
                _take(flat_key, few.keys),
                _take(flat_value, few.keys),
            )
            gradients, inners, sums = (_take(each, few.queries) for each in (flat_gradient, inner, log_sums))
            if few.counted is not None:
                gradients, inners = gradients * few.counted[..., None], inners * few.counted
            weights = few.bias().baddbmm_(queries.mul_(LOG2_E * scale), keys.mT).sub_(sums[..., None]).exp2_()
            d_scores = torch.bmm(gradients, values.mT).sub_(inners[..., None]).mul_(weights)
            d_query.index_add_(0, few.queries.flatten(), torch.bmm(d_scores, keys).mul_(scale).flatten(0, 1))
            d_key.index_add_(0, few.keys.flatten(), torch.bmm(d_scores.mT, queries).div_(LOG2_E).flatten(0, 1))
            d_value.index_add_(0, few.keys.flatten(), torch.bmm(weights.mT, gradients).flatten(0, 1))
            if rpb is not None:
                few.add_to_table(d_table, d_scores)
    d_rpb = d_table.new_zeros(0) if rpb is None else d_table[:, :-1].reshape(rpb.shape).to(rpb.dtype).contiguous()
    parts = [each.to(query.dtype).view(query.shape) for each in (d_query, d_key, d_value)]
    return parts[0], parts[1], parts[2], d_rpb


class _Handful(NamedTuple):
    """A few tiles of one kind in a few maps (a map is one head of one image), for all maps laid one after the other."""

    heads: Int[Tensor, " maps"]
    queries: Int[Tensor, "maps_tiles q"]
    counted: Float[Tensor, "maps_tiles q"] | None
    """0 where a query repeats a place that another entry deals with, else 1; None where there is no repetition."""
    keys: Int[Tensor, "maps_tiles s"]
    table: Int[Tensor, "q s"]
    biases: Float[Tensor, "heads q s"]

    def bias(self) -> Float[Tensor, "maps_tiles q s"]:
        """A fresh copy, for the scores to be added to."""
        count = len(self.queries) // len(self.heads)
        return self.biases[self.heads, None].expand(-1, count, -1, -1).reshape(-1, *self.table.shape).clone()

    def add_to_table(self, d_table: Float[Tensor, "heads places"], d_scores: Float[Tensor, "maps_tiles q s"]) -> None:
        """Add the gradients of all biases that one entry of the table has been."""
        sums = d_scores.unflatten(0, (len(self.heads), -1)).sum(1)
        d_table.view(-1).index_add_(0, _outer(self.heads * d_table.shape[1], self.table).flatten(), sums.flatten())


def _handfuls(query: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int) -> Iterator[_Handful]:
    heads, height, width = query.shape[1:4]
    tiles = cut_tiles(height, width, kernel_size=kernel_size, dilation=dilation, tile=TILE, device=query.device)
    maps = torch.arange(query.shape[0] * heads, device=query.device)
    if not len(maps):
        return
    rows = query.new_zeros(heads, (2 * kernel_size - 1) ** 2) if rpb is None else rpb.flatten(1)
    rows = torch.cat([rows, rows.new_full((heads, 1), -torch.inf)], dim=1).to(_work_type(query)) * LOG2_E
    for kind, table in enumerate(tiles.tables):
        members = (tiles.kinds == kind).nonzero().squeeze(1)
        biases = rows[:, table]
        tiles_at_once = max(1, min(len(members), HANDFUL // table.numel()))
        maps_at_once = max(1, HANDFUL // (table.numel() * tiles_at_once))
        for few in members.split(tiles_at_once):
            repeated = tiles.repeated[few]
            for some in maps.split(maps_at_once):
                counted = (1 - repeated).repeat(len(some), 1).to(rows.dtype) if repeated.any() else None
                queries, keys = (_outer(some * height * width, each[few]) for each in (tiles.queries, tiles.keys))
                yield _Handful(some % heads, queries.flatten(0, 1), counted, keys.flatten(0, 1), table, biases)


def _outer(firsts: Int[Tensor, " maps"], places: Int[Tensor, "tiles n"]) -> Int[Tensor, "maps tiles n"]:
    return firsts[:, None, None] + places


def _take(flat: Tensor, places: Tensor) -> Tensor:
    """Take the entries at places, in the type that is computed in; a copy."""
    taken: Tensor = flat.index_select(0, places.flatten()).unflatten(0, places.shape)
    return taken.to(_work_type(flat))


def _work_type(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


@_forward.register_fake
def _forward_shapes(
    query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1].numel(), dtype=_work_type(query))


@_backward.register_fake
def _backward_shapes(
    gradient: Tensor, averages: Tensor, log_sums: Tensor,
    query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    d_rpb = log_sums.new_empty(0) if rpb is None else rpb.new_empty(rpb.shape)
    return query.new_empty(query.shape), query.new_empty(query.shape), query.new_empty(query.shape), d_rpb


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, rpb, ctx.kernel_size, ctx.dilation = inputs
    ctx.has_table = rpb is not None
    ctx.save_for_backward(*output, query, key, value, *([rpb] if ctx.has_table else []))


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    averages, log_sums, query, key, value, *table = ctx.saved_tensors
    rpb = table[0] if table else None
    parts = _backward(gradient, averages, log_sums, query, key, value, rpb, ctx.kernel_size, ctx.dilation)
    return (*parts[:3], parts[3] if ctx.has_table else None, None, None)


_forward.register_autograd(_differentiate, setup_context=_keep)
