# ruff: noqa: ANN001, ANN201, N803
# mypy: ignore-errors
"""Triton kernels of neighborhood attention's gradients; the probabilities are computed anew from the saved lse.

With p the probabilities, dp = grad v^T and delta = sum(out * grad): ds = p (dp - delta), which the gradients of the
query, the key and the table are sums of. No kernel uses atomics: every sum has one owner and one order, so gradients
repeat bit for bit.

Source: Dao et al., FlashAttention, arXiv 2205.14135, algorithm 4; the windows and conventions of `triton_kernels`.
"""

from typing import no_type_check

import triton
import triton.language as tl

from hfseg.models.ops.triton_kernels import (
    frame_of,
    keys_of,
    load_vectors,
    locate,
    numbers_at,
    places,
    queries_of,
    store_vectors,
    window_scores,
    window_start,
)


@triton.jit
@no_type_check
def load_numbers(tensor, at, frame):
    """Load one number per position, zero where there is none."""
    pointers, exist = numbers_at(tensor, at, frame)
    return tl.load(pointers, mask=exist, other=0.0)


@triton.jit(do_not_specialize=["heads", "dilation"])
@no_type_check
def query_gradient(
    query, key, value, table, out, grad, lse, delta, grad_query, size, heads, dilation,
    SCALE: tl.constexpr, KERNEL: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a tile of queries, and the tile's delta for the kernels that run after this one."""
    frame, y0, x0 = locate(size, heads, dilation, TILE_H, TILE_W)
    here = places(y0, x0, TILE_H, TILE_W)
    q = load_vectors(query, here, frame, DIM, PADDED)
    do = load_vectors(grad, here, frame, DIM, PADDED)
    o = load_vectors(out, here, frame, DIM, PADDED)
    own_lse = load_numbers(lse, here, frame)
    own_delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    pointers, exist = numbers_at(delta, here, frame)
    tl.store(pointers, own_delta, mask=exist)
    dq = tl.zeros([TILE_H * TILE_W, PADDED], tl.float32)
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
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = tl.exp(scores - own_lse[:, None]) * (dp - own_delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    store_vectors(grad_query, dq * SCALE, here, frame, DIM, PADDED)


@triton.jit(do_not_specialize=["heads", "dilation"])
@no_type_check
def key_value_gradient(
    query, key, value, table, grad, lse, delta, grad_key, grad_value, size, heads, dilation,
    SCALE: tl.constexpr, KERNEL: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a tile of keys and values, from all queries whose windows hold one of them."""
    frame, y0, x0 = locate(size, heads, dilation, TILE_H, TILE_W)
    here = places(y0, x0, TILE_H, TILE_W)
    k = load_vectors(key, here, frame, DIM, PADDED)
    v = load_vectors(value, here, frame, DIM, PADDED)
    dk = tl.zeros([TILE_H * TILE_W, PADDED], tl.float32)
    dv = tl.zeros([TILE_H * TILE_W, PADDED], tl.float32)
    top, bottom = queries_of(y0, TILE_H, frame[4], KERNEL)
    left, right = queries_of(x0, TILE_W, frame[5], KERNEL)
    for row in tl.range(top, bottom, STEP_H):
        for col in tl.range(left, right, STEP_W):
            there = places(row, col, STEP_H, STEP_W)
            q = load_vectors(query, there, frame, DIM, PADDED)
            do = load_vectors(grad, there, frame, DIM, PADDED)
            its_lse = load_numbers(lse, there, frame)
            its_delta = load_numbers(delta, there, frame)
            products = tl.dot(k, tl.trans(q), input_precision="ieee")
            query_at = (there[0][None, :], there[1][None, :])
            key_at = (here[0][:, None], here[1][:, None])
            scores = window_scores(products, table, query_at, key_at, frame, SCALE, KERNEL)
            p = tl.exp(scores - its_lse[None, :])
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
            dp = tl.dot(v, tl.trans(do), input_precision="ieee")
            ds = p * (dp - its_delta[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    store_vectors(grad_key, dk * SCALE, here, frame, DIM, PADDED)
    store_vectors(grad_value, dv, here, frame, DIM, PADDED)


@triton.jit(do_not_specialize=["heads", "dilation", "parts"])
@no_type_check
def table_gradient(
    query, key, value, table, grad, lse, delta, partial, size, heads, dilation, parts,
    SCALE: tl.constexpr, KERNEL: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    STRIP: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Write one row of the table's gradient, summed over every `parts`-th strip of STRIP queries of a head.

    A table row fixes how far a key's row lies from the query's. A strip's keys start KERNEL - 1 columns before its
    first query, so all strips share their diagonals (one per table column), which are summed once at the end.
    """
    side: tl.constexpr = 2 * KERNEL - 1
    number = tl.program_id(0)
    part = number % parts
    table_row = number // parts % side
    plane = number // parts // side
    strips = tl.cdiv(tl.cdiv(size[1], dilation), STRIP)
    lines = tl.cdiv(size[0], dilation)
    i = tl.arange(0, STRIP)
    j = tl.arange(0, SPAN)
    sums = tl.zeros([STRIP, SPAN], tl.float32)
    for strip in tl.range(part, dilation * dilation * lines * strips, parts):
        frame = frame_of(plane, strip // strips // lines, size, heads, dilation)
        y = strip // strips % lines
        x0 = strip % strips * STRIP
        key_y = y + table_row - (KERNEL - 1)
        start = window_start(y, frame[4], KERNEL)
        if (y < frame[4]) & (key_y >= start) & (key_y < start + KERNEL):
            here = (y + i * 0, x0 + i)
            there = (key_y + j * 0, x0 - (KERNEL - 1) + j)
            q = load_vectors(query, here, frame, DIM, PADDED)
            do = load_vectors(grad, here, frame, DIM, PADDED)
            k = load_vectors(key, there, frame, DIM, PADDED)
            v = load_vectors(value, there, frame, DIM, PADDED)
            products = tl.dot(q, tl.trans(k), input_precision="ieee")
            query_at = (here[0][:, None], here[1][:, None])
            key_at = (there[0][None, :], there[1][None, :])
            scores = window_scores(products, table, query_at, key_at, frame, SCALE, KERNEL)
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            p = tl.exp(scores - load_numbers(lse, here, frame)[:, None])
            sums += p * (dp - load_numbers(delta, here, frame)[:, None])
    diagonal = tl.minimum(i[:, None] + j[None, :], SPAN - 1)
    entries = tl.sum(tl.gather(sums, diagonal, 1), 0)
    tl.store(partial + ((plane * parts + part) * side + table_row) * side + j, entries, mask=j < side)
