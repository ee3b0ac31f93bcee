"""The settings that only encoders of neighborhood attention have."""

from typing import Any

import torch

from hfseg.errors import ModelError
from hfseg.models.backbones.dilations import Dilations, auto_dilations, check_dilations
from hfseg.models.ops import WAYS, fused_natten, fused_triton

AUTO = "auto"
FAMILIES = ("nat", "dinat")
"""Families of neighborhood attention; only the last is dilated."""


def configure(
    config: Any, *, dilations: Dilations | str | None, position_table: bool | None, crop: tuple[int, int] | None
) -> None:
    """Write the settings into an encoder's config, which is saved with the model.

    Raises:
        ModelError: the encoder does not have what a setting changes, or the dilations do not fit its depths.
    """
    if position_table is not None:
        _only("position_table", config, FAMILIES)
        config.position_table = position_table
    if dilations is not None:
        _only("dilations", config, FAMILIES[1:])
        config.dilations = _auto(config, crop) if dilations == AUTO else dilations
    if config.model_type == "dinat":
        check_dilations(config.dilations, config.depths)


def check_impl(config: Any, impl: str | None) -> None:
    """See that a forced way of computing attention exists, and that the encoder has such attention.

    Raises:
        ModelError: it does not.
    """
    if impl is None:
        return
    _only("attention_impl", config, FAMILIES)
    if impl not in WAYS:
        raise ModelError(f"`model.attention_impl` is `{impl}`: expected {', '.join(f'`{way}`' for way in WAYS)}")
    if reason := _refusal(config, impl):
        raise ModelError(f"`model.attention_impl` is `{impl}`, which cannot run here: {reason}", hint="leave it out")


def _refusal(config: Any, impl: str) -> str | None:
    """Why a fused way cannot train this encoder on the best device of this machine; nothing, of the others."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case: dict[str, Any] = {
        "device": device, "dtype": torch.float32, "head_dim": config.embed_dim // config.num_heads[0]
    }  # fmt: skip
    if impl == "triton":
        return fused_triton.refusal(**case, kernel_size=config.kernel_size)
    if impl == "natten":
        return fused_natten.refusal(**case, has_table=getattr(config, "position_table", True), needs_grad=True)
    return None


def _auto(config: Any, crop: tuple[int, int] | None) -> Dilations:
    if crop is None:
        raise ModelError(
            "`model.dilations` is `auto` and the training crop is not known", hint="give the dilations as lists"
        )
    return auto_dilations(config.depths, kernel_size=config.kernel_size, crop=crop)


def _only(option: str, config: Any, families: tuple[str, ...]) -> None:
    if config.model_type not in families:
        raise ModelError(
            f"`model.{option}` has no effect on `{config.model_type}`",
            hint=f"it belongs to {' and '.join(families)}; leave it out",
        )
