"""Neighborhood attention by Triton kernels: CUDA devices, or any machine with `TRITON_INTERPRET=1` (slow, for tests).

Queries, keys, values and outputs cross the memory bus about once; scores and probabilities never do. This module can be
imported without Triton; the kernels cannot.
"""

import os
from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from math import ceil
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
KERNEL_SIZES = range(3, 14, 2)
MAX_HEAD_DIM = 128
OLDEST = (3, 3)
"""The first release that takes tuples as arguments of kernels."""
STRIP = 16
"""Queries that the table's kernel takes at a time: the smallest side of a tensor-core product."""
TABLE_PROGRAMS = 2048
"""Programs for the table's gradient, about: enough to fill a GPU, and fixed, so that sums repeat on any device."""


@cache
def installed_version() -> str | None:
    """Return Triton's version, None without it; does not import it. Its distribution goes by several names."""
    return version(packages_distributions()["triton"][0]) if find_spec("triton") else None


def available() -> bool:
    """Say whether a Triton is installed that compiles the kernels."""
    return _wrong_version() is None


def refusal(*, device: str, dtype: torch.dtype, head_dim: int, kernel_size: int) -> str | None:
    """Say why the kernels cannot run, or return None if they can. `device` is a type: `cuda`, `cpu`."""
    if reason := _wrong_version():
        return reason
    if device != "cuda" and not (device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"triton needs a `cuda` device, got `{device}`"
    if dtype not in DTYPES:
        return f"triton takes float16, bfloat16 and float32, got `{dtype}`"
    if device == "cpu" and dtype == torch.bfloat16:
        return "triton's interpreter multiplies bfloat16 wrongly: use float32 on `cpu`"
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        return f"triton takes head dims up to {MAX_HEAD_DIM}, got `{head_dim}`"
    if kernel_size not in KERNEL_SIZES:
        return f"triton takes odd kernel sizes from 3 to 13, got `{kernel_size}`"
    return None


def supports(*, device: str, dtype: torch.dtype, head_dim: int, kernel_size: int) -> bool:
    """Say whether the kernels can run: see `refusal` for the reason if not."""
    return refusal(device=device, dtype=dtype, head_dim=head_dim, kernel_size=kernel_size) is None


def attend(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None = None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Attend to each query's window; scores and sums in float32, products on tensor cores in half precision.

    The map must hold a window: `h`, `w` >= `kernel_size * dilation`. Gradients are of first order only, and repeat bit
    for bit. The output's memory is ordered as the query's.

    Raises:
        ValueError: the kernels cannot run here; the message says why.
    """
    head_dim = query.shape[-1]
    reason = refusal(device=query.device.type, dtype=query.dtype, head_dim=head_dim, kernel_size=kernel_size)
    if reason:
        raise ValueError(reason)
    out: Tensor = _Attend.apply(query, key, value, rpb, kernel_size, dilation)
    return out


class Blocks(NamedTuple):
    """How a kernel cuts the map: the places a program owns, those it meets in one step, and its warps."""

    tile_h: int
    tile_w: int
    step_h: int
    step_w: int
    num_warps: int


def blocks_for(head_dim: int, kernel_size: int, dtype: torch.dtype) -> Blocks:
    """Choose block sizes that spill at most a few registers, and whose shared memory fits all devices from sm_80 on.

    Found by compiling for sm_90 and sm_86; not timed. A tile of 8 under a window of up to 9 touches 16 columns, one
    step; wider windows waste less with a tile of 16.
    """
    if dtype == torch.float32:
        return Blocks(8, 8, 2, 16, 8) if head_dim <= 64 else Blocks(4, 8, 1, 16, 4)
    if head_dim > 64:
        return Blocks(8, 8, 2, 16, 8)
    if kernel_size > 9:
        return Blocks(8, 16, 2, 16, 8)
    return Blocks(8, 8, 4 if head_dim <= 32 else 2, 16, 4)


def table_warps(head_dim: int, span: int) -> int:
    """Choose the warps of the table's kernel: one for each 32 x 32 numbers of a strip's keys, up to 4."""
    return max(1, min(4, _power_of_two(head_dim) * span // 1024))


class _Call(NamedTuple):
    """The sizes of one application, and the launching of kernels over them."""

    batch: int
    heads: int
    height: int
    width: int
    head_dim: int
    kernel_size: int
    dilation: int
    dtype: torch.dtype

    def over_tiles(self, kernel: Any, *tensors: Any) -> None:
        """Launch one program per tile of each dilation group of each head."""
        tile_h, tile_w, step_h, step_w, num_warps = blocks_for(self.head_dim, self.kernel_size, self.dtype)
        tiles = ceil(ceil(self.height / self.dilation) / tile_h) * ceil(ceil(self.width / self.dilation) / tile_w)
        kernel[(self.batch * self.heads * self.dilation**2 * tiles,)](
            *tensors, (self.height, self.width), self.heads, self.dilation, **self._constants(),
            TILE_H=tile_h, TILE_W=tile_w, STEP_H=step_h, STEP_W=step_w, num_warps=num_warps,
        )  # fmt: skip

    def over_table(self, kernel: Any, *tensors: Any) -> Float[Tensor, "heads r r"]:
        """Launch programs per row of each head's table, and add up the parts they write."""
        side = 2 * self.kernel_size - 1
        span = _power_of_two(STRIP + side - 1)
        strips = self.dilation**2 * ceil(self.height / self.dilation) * ceil(ceil(self.width / self.dilation) / STRIP)
        parts = min(strips, ceil(TABLE_PROGRAMS / (self.batch * self.heads * side)))
        partial: Tensor = tensors[0][0].new_empty((self.batch, self.heads, parts, side, side), dtype=torch.float32)
        kernel[(self.batch * self.heads * side * parts,)](
            *tensors, partial, (self.height, self.width), self.heads, self.dilation, parts, **self._constants(),
            STRIP=STRIP, SPAN=span, num_warps=table_warps(self.head_dim, span),
        )  # fmt: skip
        return partial.sum((0, 2))

    def _constants(self) -> dict[str, Any]:
        padded = max(16, _power_of_two(self.head_dim))
        return {"SCALE": self.head_dim**-0.5, "KERNEL": self.kernel_size, "DIM": self.head_dim, "PADDED": padded}


class _Attend(torch.autograd.Function):
    """The kernels as one differentiable step; saves its inputs, the output and one number per query."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
    ) -> Tensor:
        from hfseg.models.ops import triton_kernels as kernels

        query, key, value = (_unit_stride(tensor) for tensor in (query, key, value))
        rpb = None if rpb is None else rpb.contiguous()
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.call = _Call(*query.shape, kernel_size=kernel_size, dilation=dilation, dtype=query.dtype)
        with torch.cuda.device_of(query):
            inputs = (_pair(query), _pair(key), _pair(value), rpb)
            ctx.call.over_tiles(kernels.attend, *inputs, _pair(out), _pair(lse))
        ctx.save_for_backward(query, key, value, rpb, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from hfseg.models.ops import triton_gradients as kernels

        query, key, value, rpb, out, lse = ctx.saved_tensors
        delta = torch.empty_like(lse)
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        inputs = (_pair(query), _pair(key), _pair(value), rpb)
        given = (_pair(_unit_stride(grad)), _pair(lse), _pair(delta))
        grad_rpb = None
        with torch.cuda.device_of(query):
            ctx.call.over_tiles(kernels.query_gradient, *inputs, _pair(out), *given, _pair(grads[0]))  # writes delta
            ctx.call.over_tiles(kernels.key_value_gradient, *inputs, *given, _pair(grads[1]), _pair(grads[2]))
            if ctx.needs_input_grad[3]:
                grad_rpb = ctx.call.over_table(kernels.table_gradient, *inputs, *given).to(rpb.dtype)
        return *grads, grad_rpb, None, None


def _wrong_version() -> str | None:
    installed = installed_version()
    if installed is None:
        return "triton is not installed: `pip install 'triton>=3.3'`"
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        return f"triton {installed} is installed, 3.3 or later is needed: `pip install 'triton>=3.3'`"
    return None


def _pair(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    return tensor, tensor.stride()


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
