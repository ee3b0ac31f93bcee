"""Neighborhood attention: one contract, several ways to compute it, and the choice between them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hfseg.models.ops import fused_natten, fused_triton, gather, lean, tiled

WAYS: Mapping[str, Callable[..., Tensor]] = {
    "lean": lean.attend,
    "tiled": tiled.attend,
    "sdpa": tiled.attend_fused,
    "gather": gather.attend,
    "triton": fused_triton.attend,
    "natten": fused_natten.attend,
}
"""Every way, by the name it can be forced by."""
KERNEL_SIZES = range(3, 14, 2)


class Case(NamedTuple):
    """What the choice of a way depends on."""

    device: str
    """Type of the device: `cpu`, `cuda`, `xla` ..."""
    dtype: torch.dtype
    height: int
    width: int
    head_dim: int
    kernel_size: int
    dilation: int
    has_table: bool


def choose(case: Case) -> str:
    """Name the quickest way that was measured for a case; the default where none was.

    On a CPU that is `lean`, in every case that was tried. No GPU has been measured, so everything else gets `tiled`,
    which is plain PyTorch; `triton`, `sdpa` and `natten` run when they are asked for by name.
    """
    return "lean" if case.device == "cpu" else "tiled"


_is_free = False


@contextmanager
def freely_chosen() -> Iterator[None]:
    """Let `choose` decide inside the block, whatever is asked for: a dry run may be on another device than training."""
    global _is_free
    before, _is_free = _is_free, True
    try:
        yield
    finally:
        _is_free = before


def neighborhood_attention(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None = None,
    kernel_size: int,
    dilation: int = 1,
    impl: str | None = None,
) -> Float[Tensor, "b heads h w d"]:
    """Let every place of a map attend to the `kernel_size` x `kernel_size` places around it that lie `dilation` apart.

    Scores are scaled by 1/sqrt(d). At the edges the window is shifted inwards, so that it always is whole. `rpb` holds
    one bias per head and offset of a key from its query, from -(kernel_size - 1) to kernel_size - 1 places of the
    window down and across. Inputs may be views of any layout; gradients reach all four. `impl` names one of WAYS;
    without it, `choose` does.

    Raises:
        ValueError: the map is smaller than a window, a size makes no sense, or the way that was asked for does not
            exist or cannot run here.

    Source: arXiv 2204.07143, eq. 2 and 3; 2209.15001, eq. 2; edges and table as in NATTEN 0.17.
    """
    height, width, head_dim = query.shape[2:]
    _check(query, key, value, rpb, kernel_size=kernel_size, dilation=dilation)
    case = Case(query.device.type, query.dtype, height, width, head_dim, kernel_size, dilation, rpb is not None)
    way = impl if impl and not _is_free else choose(case)
    if way not in WAYS:
        known = ", ".join(WAYS)
        raise ValueError(f"there is no way `{way}` to compute neighborhood attention: expected one of {known}")
    return WAYS[way](query, key, value, rpb=rpb, kernel_size=kernel_size, dilation=dilation)


def _check(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, *, kernel_size: int, dilation: int) -> None:
    if kernel_size not in KERNEL_SIZES:
        raise ValueError(f"kernel_size must be odd, from 3 to 13: got {kernel_size}")
    if dilation < 1:
        raise ValueError(f"dilation must be 1 or more: got {dilation}")
    if not query.shape == key.shape == value.shape:
        shapes = [list(each.shape) for each in (query, key, value)]
        raise ValueError(f"query, key and value must have one shape: got {shapes}")
    height, width = query.shape[2:4]
    if min(height, width) < kernel_size * dilation:
        raise ValueError(
            f"a map of {height} x {width} is smaller than the window of kernel_size {kernel_size} x dilation "
            f"{dilation}: expected {kernel_size * dilation} or more; pad it"
        )
    side = 2 * kernel_size - 1
    if rpb is not None and rpb.shape != (query.shape[1], side, side):
        raise ValueError(f"rpb must be {query.shape[1]} x {side} x {side}: got {' x '.join(map(str, rpb.shape))}")
