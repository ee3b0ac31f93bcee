# ruff: noqa: ANN001, ANN201, N803
# mypy: ignore-errors
"""Triton kernels of neighborhood attention: the geometry they share, and the forward pass.

A program owns a tile of places of one dilation group and walks over the box of places that the tile's windows touch, in
steps of tensor-core size. Queries, keys, values and outputs are read or written through their strides, and nothing of
the size of (queries x window) leaves the registers.

A tensor comes as the pair (pointer, strides), a position as the pair (y, x) counted inside its dilation group. A
`frame` says which group of which head is meant: (batch, head, group y, group x, rows, columns, dilation).

Import this module only where Triton is installed. `no_type_check` keeps checkers of annotations away from the kernels,
which are compiled from their source.

Source: online softmax of Dao et al., FlashAttention, arXiv 2205.14135; windows of Hassani et al., Neighborhood
Attention Transformer, arXiv 2204.07143.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def frame_of(plane, group, size, heads, dilation):
    """Build the frame of a plane (batch * heads + head) and a group (group y * dilation + group x)."""
    group_y = group // dilation
    group_x = group % dilation
    rows = tl.cdiv(size[0] - group_y, dilation)
    cols = tl.cdiv(size[1] - group_x, dilation)
    return plane // heads, plane % heads, group_y, group_x, rows, cols, dilation


@triton.jit
@no_type_check
def locate(size, heads, dilation, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Turn the program's number into its frame and the first row and column of its tile.

    Groups differ in length by one, so the last tile of a shorter group may be empty: it loads and stores nothing.
    """
    tiles_y = tl.cdiv(tl.cdiv(size[0], dilation), TILE_H)
    tiles_x = tl.cdiv(tl.cdiv(size[1], dilation), TILE_W)
    number = tl.program_id(0)
    tile = number % (tiles_y * tiles_x)
    number = number // (tiles_y * tiles_x)
    groups = dilation * dilation
    frame = frame_of(number // groups, number % groups, size, heads, dilation)
    return frame, tile // tiles_x * TILE_H, tile % tiles_x * TILE_W


@triton.jit
@no_type_check
def places(y0, x0, ROWS: tl.constexpr, COLS: tl.constexpr):
    """List the positions of a block, row by row."""
    number = tl.arange(0, ROWS * COLS)
    return y0 + number // COLS, x0 + number % COLS


@triton.jit
@no_type_check
def numbers_at(tensor, at, frame):
    """Point at one number per position of a "b heads h w" tensor, and say which positions exist."""
    pointer, strides = tensor
    y, x = at
    batch, head, group_y, group_x, rows, cols, dilation = frame
    pointer += batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]
    offset = (y * dilation + group_y).to(tl.int64) * strides[2] + (x * dilation + group_x).to(tl.int64) * strides[3]
    return pointer + offset, (y >= 0) & (y < rows) & (x >= 0) & (x < cols)


@triton.jit
@no_type_check
def vectors_at(tensor, at, frame, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Point at one vector per position of a "b heads h w d" tensor of unit stride in d, padded to PADDED numbers."""
    pointers, exist = numbers_at(tensor, at, frame)
    d = tl.arange(0, PADDED)
    return pointers[:, None] + d[None, :], exist[:, None] & (d < DIM)[None, :]


@triton.jit
@no_type_check
def load_vectors(tensor, at, frame, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Load one vector per position, zero where there is none."""
    pointers, exist = vectors_at(tensor, at, frame, DIM, PADDED)
    return tl.load(pointers, mask=exist, other=0.0)


@triton.jit
@no_type_check
def store_vectors(tensor, vectors, at, frame, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Store one vector per position that exists, in the tensor's own precision."""
    pointers, exist = vectors_at(tensor, at, frame, DIM, PADDED)
    tl.store(pointers, vectors.to(pointers.dtype.element_ty), mask=exist)


@triton.jit
@no_type_check
def window_start(place, length, KERNEL: tl.constexpr):
    """Find the first key of a query's window on one axis: the window is moved inwards at the edges."""
    return tl.minimum(tl.maximum(place - KERNEL // 2, 0), length - KERNEL)


@triton.jit
@no_type_check
def keys_of(first, tile, length, KERNEL: tl.constexpr):
    """Bound the keys, on one axis, in the windows of the queries of a tile: (first, last + 1)."""
    last = tl.minimum(first + tile, length) - 1
    return window_start(first, length, KERNEL), window_start(last, length, KERNEL) + KERNEL


@triton.jit
@no_type_check
def queries_of(first, tile, length, KERNEL: tl.constexpr):
    """Bound the queries, on one axis, whose windows hold a key of a tile: (first, last + 1).

    The inverse of `window_start`, which never falls and rises by at most one: a key among the first KERNEL is seen from
    the very first query on, one among the last KERNEL up to the very last query, any other from half a window away.
    """
    last = tl.minimum(first + tile, length) - 1
    start = tl.where(first < KERNEL, 0, first - KERNEL // 2)
    return start, tl.where(last >= length - KERNEL, length, last + KERNEL // 2 + 1)


@triton.jit
@no_type_check
def window_scores(products, table, query_at, key_at, frame, SCALE: tl.constexpr, KERNEL: tl.constexpr):
    """Scale dot products, add the position table, and put -inf where the key is outside of the query's window.

    Positions must broadcast to the shape of `products`. The table (or None) holds (2 KERNEL - 1)^2 numbers a head.
    """
    qy, qx = query_at
    ky, kx = key_at
    from_y = ky - window_start(qy, frame[4], KERNEL)
    from_x = kx - window_start(qx, frame[5], KERNEL)
    inside = (from_y >= 0) & (from_y < KERNEL) & (from_x >= 0) & (from_x < KERNEL)
    inside = inside & (qy < frame[4]) & (qx < frame[5])  # beyond the group's end, offsets leave the table
    scores = products * SCALE
    if table is not None:
        side: tl.constexpr = 2 * KERNEL - 1
        entry = ((frame[1] * side) + ky - qy + KERNEL - 1) * side + kx - qx + KERNEL - 1
        scores += tl.load(table + entry, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, scores, float("-inf"))


@triton.jit(do_not_specialize=["heads", "dilation"])
@no_type_check
def attend(
    query, key, value, table, out, lse, size, heads, dilation,
    SCALE: tl.constexpr, KERNEL: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
):  # fmt: skip
    """Write the attention of a tile of queries, and the logarithm of its softmax's denominator."""
    frame, y0, x0 = locate(size, heads, dilation, TILE_H, TILE_W)
    here = places(y0, x0, TILE_H, TILE_W)
    q = load_vectors(query, here, frame, DIM, PADDED)
    peak = tl.full([TILE_H * TILE_W], float("-inf"), tl.float32)
    total = tl.zeros([TILE_H * TILE_W], tl.float32)
    mixed = tl.zeros([TILE_H * TILE_W, PADDED], tl.float32)
    top, bottom = keys_of(y0, TILE_H, frame[4], KERNEL)
    left, right = keys_of(x0, TILE_W, frame[5], KERNEL)
    for row in tl.range(top, bottom, STEP_H):
        for col in tl.range(left, right, STEP_W):
            there = places(row, col, STEP_H, STEP_W)
            k = load_vectors(key, there, frame, DIM, PADDED)
            v = load_vectors(value, there, frame, DIM, PADDED)
            products = tl.dot(q, tl.trans(k), input_precision="ieee")
            query_at = (here[0][:, None], here[1][:, None])
            key_at = (there[0][None, :], there[1][None, :])
            scores = window_scores(products, table, query_at, key_at, frame, SCALE, KERNEL)
            higher = tl.maximum(peak, tl.max(scores, 1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)  # no key of this query's window seen yet
            weights = tl.exp(scores - shift[:, None])
            fade = tl.exp(peak - shift)
            total = total * fade + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
            peak = higher
    total = tl.where(total == 0.0, 1.0, total)  # places beyond the group's end see nothing
    store_vectors(out, mixed / total[:, None], here, frame, DIM, PADDED)
    pointers, exist = numbers_at(lse, here, frame)
    tl.store(pointers, peak + tl.log(total), mask=exist)
