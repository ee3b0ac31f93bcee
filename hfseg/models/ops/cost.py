"""What neighborhood attention costs, whichever way computes it: formulas for `torch.utils.flop_counter`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

import hfseg.models.ops.lean  # noqa: F401  # makes the operator known to torch


def neighborhood_flops(
    query_shape: Any, key_shape: Any, value_shape: Any, rpb_shape: Any, kernel_size: int, dilation: int, **_: Any
) -> int:
    """Count a product and a sum as two: each query meets `kernel_size` x `kernel_size` keys, and as many values."""
    batch, heads, height, width, head_dim = query_shape
    return int(4 * batch * heads * height * width * head_dim * kernel_size**2)


FORMULAS: Mapping[Any, Callable[..., int]] = {torch.ops.hfseg.neighborhood_attention: neighborhood_flops}
"""Operations by the operator that `choose` takes on a CPU; other ways compute pairs that no window holds."""
