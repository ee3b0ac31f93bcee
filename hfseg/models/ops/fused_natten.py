"""Neighborhood attention by NATTEN's fused `na2d`, for models without a position table.

Needs NATTEN 0.20 or later: earlier releases have another interface, later ones no table. On a CPU it runs forward only
and builds the full matrix of scores, which suits checks and nothing else.

Source: github.com/SHI-Labs/NATTEN (MIT), `natten.functional.na2d`; its windows are moved inwards at edges like ours.
"""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CPU_HEAD_DIMS = (32, 64, 128, 256, 512)
"""What FlexAttention, NATTEN's only way on a CPU, is let through with by all releases since 0.20."""
OLDEST = (0, 20)


@cache
def installed_version() -> str | None:
    """Return NATTEN's version, None without it; does not import it."""
    return version("natten") if find_spec("natten") else None


def available() -> bool:
    """Say whether a NATTEN that has `na2d` is installed."""
    return _wrong_version() is None


def refusal(*, device: str, dtype: torch.dtype, head_dim: int, has_table: bool, needs_grad: bool) -> str | None:
    """Say why NATTEN cannot run, or return None if it can. `device` is a type: `cuda`, `cpu`."""
    if reason := _wrong_version():
        return reason
    if has_table:
        return "natten has no position table since 0.20: call without `rpb`, or use another way"
    if device not in ("cuda", "cpu"):
        return f"natten needs a `cuda` device, or a `cpu` for the forward pass, got `{device}`"
    if device == "cpu" and needs_grad:
        return "natten has no gradients on `cpu`"
    if dtype not in DTYPES:
        return f"natten takes float16, bfloat16 and float32, got `{dtype}`"
    if device == "cpu" and head_dim not in CPU_HEAD_DIMS:
        return f"natten takes head dims of {CPU_HEAD_DIMS} on `cpu`, got `{head_dim}`"
    if device == "cuda" and head_dim % 8:
        return f"natten takes head dims that are multiples of 8, got `{head_dim}`"
    if device == "cuda" and not _has_cuda_kernels():
        return "natten was built without its CUDA kernels: install it from source with a CUDA compiler"
    return None


def supports(*, device: str, dtype: torch.dtype, head_dim: int, has_table: bool, needs_grad: bool) -> bool:
    """Say whether NATTEN can run: see `refusal` for the reason if not."""
    reason = refusal(device=device, dtype=dtype, head_dim=head_dim, has_table=has_table, needs_grad=needs_grad)
    return reason is None


def attend(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None = None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Attend to each query's window; on CUDA the kernel is NATTEN's choice for the device.

    The map must hold a window: `h`, `w` >= `kernel_size * dilation`. The output is a view of a "b h w heads d" tensor.

    Raises:
        ValueError: NATTEN cannot run here; the message says why.
    """
    reason = refusal(
        device=query.device.type,
        dtype=query.dtype,
        head_dim=query.shape[-1],
        has_table=rpb is not None,
        needs_grad=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value)),
    )
    if reason:
        raise ValueError(reason)
    from natten.functional import na2d

    heads_last = [tensor.permute(0, 2, 3, 1, 4) for tensor in (query, key, value)]
    out: Tensor = na2d(*heads_last, kernel_size=kernel_size, dilation=dilation, scale=query.shape[-1] ** -0.5)
    return out.permute(0, 3, 1, 2, 4)


def _wrong_version() -> str | None:
    installed = installed_version()
    if installed is None:
        return "natten is not installed: `pip install 'natten>=0.20'`"
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        return f"natten {installed} is installed, 0.20 or later is needed: `pip install 'natten>=0.20'`"
    return None


@cache
def _has_cuda_kernels() -> bool:
    from natten import HAS_LIBNATTEN

    return bool(HAS_LIBNATTEN)
