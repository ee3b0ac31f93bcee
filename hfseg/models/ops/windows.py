"""Which keys a query attends to, tile by tile: the geometry that the quick ways of neighborhood attention share.

Along an axis of length L with dilation d, the places of equal remainder modulo d form a group and see only each other.
Inside its group, the window of a place is the `kernel_size` places around it, shifted inwards at the edges.
Source: arXiv 2204.07143 and 2209.15001; edges and the table as in NATTEN 0.17.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

OUTSIDE = -1
"""Stands in a table for a key that is not in the query's window."""


class Axis(NamedTuple):
    """One axis cut into tiles: a few queries of one group, and the keys that any of them attends to.

    Tiles of one `kind` have the same table: most lie in the middle of their group and are of one kind.
    """

    queries: Int[Tensor, "tiles q"]
    """Places of the queries; the last tile of a group repeats its last place where the group is used up."""
    repeated: Int[Tensor, "tiles q"]
    """1 for such a repetition, else 0."""
    keys: Int[Tensor, "tiles s"]
    """Places of the keys."""
    kinds: Int[Tensor, " tiles"]
    """Which table a tile has."""
    tables: Int[Tensor, "kinds q s"]
    """The row of the position table for each query and key, or OUTSIDE."""


@lru_cache(maxsize=256)
def cut(length: int, *, kernel_size: int, dilation: int, tile: int) -> Axis:
    """Cut an axis into tiles of `tile` queries, or a little fewer where that divides it more evenly.

    A group whose keys one tile needs all is a single tile: cutting it would save no key.
    """
    longest = -(-length // dilation)
    whole = longest < tile + kernel_size
    size = longest if whole else -(-longest // -(-longest // tile))
    span = min(size + kernel_size - 1, longest)
    tables: dict[tuple[tuple[int, ...], ...], int] = {}
    rows: list[tuple[list[int], list[int], list[int], int]] = []
    for group in range(dilation):
        count = -(-(length - group) // dilation)
        for first in range(0, longest, size):
            base = min(max(first - kernel_size // 2, 0), max(count - span, 0))
            keys = [min(key, count - 1) for key in range(base, base + span)]
            queries = [min(query, count - 1) for query in range(first, first + size)]
            table = tuple(_row(query, base, span, count, kernel_size) for query in queries)
            rows.append((
                [query * dilation + group for query in queries],
                [int(query >= count) for query in range(first, first + size)],
                [key * dilation + group for key in keys],
                tables.setdefault(table, len(tables)),
            ))  # fmt: skip
    columns = [*zip(*rows, strict=True), list(tables)]
    return Axis(*(torch.tensor(each, device="cpu") for each in columns))


def _row(query: int, base: int, span: int, count: int, kernel_size: int) -> tuple[int, ...]:
    """The table's rows for the keys from `base` on, seen from a query of a group of `count` places."""
    start = min(max(query - kernel_size // 2, 0), count - kernel_size)
    window = range(start, start + kernel_size)
    return tuple(key - query + kernel_size - 1 if key in window else OUTSIDE for key in range(base, base + span))


class Tiles(NamedTuple):
    """A map cut into square tiles; rows and columns of tiles have been laid one after the other."""

    queries: Int[Tensor, "tiles q"]
    """Places row * width + column of the queries."""
    repeated: Int[Tensor, "tiles q"]
    """1 for a query that stands for a place which another entry has dealt with, else 0."""
    keys: Int[Tensor, "tiles s"]
    """Places of the keys."""
    kinds: Int[Tensor, " tiles"]
    """Which table a tile has."""
    tables: Int[Tensor, "kinds q s"]
    """Place in the flattened position table for each query and key; its length for a key outside the window."""
    back: Int[Tensor, " hw"]
    """For every place of the map, where it stands in the flattened `queries`."""


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # plans made while evaluating serve training too, which must be able to save them
def cut_tiles(height: int, width: int, *, kernel_size: int, dilation: int, tile: int, device: torch.device) -> Tiles:
    """Cut a map into tiles of at most `tile` x `tile` queries."""
    rows, columns = (cut(length, kernel_size=kernel_size, dilation=dilation, tile=tile) for length in (height, width))
    queries = _outer(rows.queries * width, columns.queries)
    repeated = _outer(rows.repeated, columns.repeated).clamp(max=1)
    first = (repeated.flatten() == 0).nonzero().squeeze(1)
    back = torch.empty(height * width, dtype=torch.long, device="cpu")
    back[queries.flatten()[first]] = first
    kinds = (rows.kinds[:, None] * len(columns.tables) + columns.kinds).flatten()
    tables = _table_places(rows.tables, columns.tables, kernel_size)
    keys = _outer(rows.keys * width, columns.keys)
    return Tiles(*(each.to(device) for each in (queries, repeated, keys, kinds, tables, back)))


def _outer(rows: Int[Tensor, "r a"], columns: Int[Tensor, "c b"]) -> Int[Tensor, "rc ab"]:
    """Add every row's entry to every column's, for each pair of tiles."""
    return (rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _table_places(
    rows: Int[Tensor, "k q s"], columns: Int[Tensor, "l p t"], kernel_size: int
) -> Int[Tensor, "kl qp st"]:
    side = 2 * kernel_size - 1
    down, across = rows[:, None, :, None, :, None], columns[None, :, None, :, None, :]
    places = torch.where((down != OUTSIDE) & (across != OUTSIDE), down * side + across, side * side)
    return places.flatten(4).flatten(2, 3).flatten(0, 1)
