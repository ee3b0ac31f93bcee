"""Every temporal attention block at a tiny size, with random weights that leave nothing at zero; and clips to read."""

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from hfseg.models.attention import AttentionConfig, Features, TemporalAttention

HIGH, LOW, CHANNELS = 6, 5, 16
WIDTHS: dict[str, Any] = {"channels": CHANNELS, "key_channels": 3, "value_channels": 4}
POOLED: dict[str, Any] = {**WIDTHS, "pool_sizes": (1, 3, 4)}
MEMBERS: dict[str, dict[str, Any]] = {
    "nonlocal": {"kind": "nonlocal", **WIDTHS},
    "nonlocal, scaled, with current": {"kind": "nonlocal", **WIDTHS, "scaled": True, "include_current": True},
    "nonlocal, slots": {"kind": "nonlocal", **WIDTHS, "slots": 5},
    "nonlocal_residual": {"kind": "nonlocal_residual", "channels": CHANNELS},
    "nonlocal_residual, memory only": {"kind": "nonlocal_residual", "channels": CHANNELS, "include_current": False},
    "nonlocal_residual, dot product": {"kind": "nonlocal_residual", "channels": CHANNELS, "softmax": False},
    "psp": {"kind": "psp", "channels": CHANNELS},
    "psp, memory only": {"kind": "psp", "channels": CHANNELS, "include_current": False},
    "apnb": {"kind": "apnb", **POOLED},
    "apnb, memory only": {"kind": "apnb", **POOLED, "include_current": False},
    "apnb, wide kernel": {"kind": "apnb", **POOLED, "narrow_kernel": 3},
    "apnb, time bins": {"kind": "apnb", **POOLED, "time_bins": 2},
    "afnb": {"kind": "afnb", **POOLED},
    "afnb, memory only": {"kind": "afnb", **POOLED, "include_current": False},
    "criss_cross, space": {"kind": "criss_cross", "channels": CHANNELS, "mode": "space"},
    "criss_cross, separate": {"kind": "criss_cross", "channels": CHANNELS, "mode": "separate"},
    "criss_cross, full": {"kind": "criss_cross", "channels": CHANNELS, "mode": "full"},
    "criss_cross, full, once": {"kind": "criss_cross", "channels": CHANNELS, "mode": "full", "recurrence": 1},
    "dual": {"kind": "dual", "channels": CHANNELS, "key_channels": 3},
    "dual, memory only": {"kind": "dual", "channels": CHANNELS, "include_current": False},
    "apnb+afnb": {"kind": "apnb+afnb", **POOLED},
    "dual+apnb+afnb": {"kind": "dual+apnb+afnb", **POOLED},
    "dual+apnb+afnb, memory only": {"kind": "dual+apnb+afnb", **POOLED, "include_current": False},
}
"""Settings by a name that says what is particular."""


def built(name: str, *, dtype: torch.dtype = torch.float64) -> TemporalAttention:
    """Build a member, in evaluation mode."""
    block = TypeAdapter(AttentionConfig).validate_python(MEMBERS[name]).build(HIGH, LOW)
    randomize(block)
    return block.to(dtype).eval()


def randomize(block: TemporalAttention) -> None:
    """Give every parameter and statistic a value that matters: gates and norms near 1, weights that keep the scale."""
    generator = torch.Generator().manual_seed(1)
    for key, tensor in block.state_dict().items():
        if tensor.is_floating_point():
            inputs = tensor[0].numel() if tensor.ndim > 1 else 1
            tensor.normal_(std=0.3 if tensor.ndim < 2 else inputs**-0.5, generator=generator)
            is_scale = key.endswith(("running_var", "gamma")) or (tensor.ndim == 1 and key.endswith("weight"))
            tensor.abs_().add_(0.7) if is_scale else None


def maps(*shape: int, seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw a map."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def features(
    *leading: int,
    size: tuple[int, int] = (5, 7),
    low_size: tuple[int, int] = (9, 6),
    seed: int = 2,
    dtype: torch.dtype = torch.float64,
) -> Features:
    """Draw both stages' maps, of one frame (`leading` is the batch) or of clips (batch, frames)."""
    return Features(
        maps(*leading, HIGH, *size, seed=seed, dtype=dtype), maps(*leading, LOW, *low_size, seed=seed + 1, dtype=dtype)
    )


def frame(clip: Features, index: int) -> Features:
    """Take one frame of clips."""
    assert clip.low is not None
    return Features(clip.high[:, index], clip.low[:, index])


def picked(clip: Features, indices: list[int]) -> Features:
    """Take some frames of clips."""
    assert clip.low is not None
    return Features(clip.high[:, indices], clip.low[:, indices])
