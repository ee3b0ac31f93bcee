"""Temporal attention blocks: how the current frame of a video reads those before it."""

from typing import Annotated

from pydantic import Field

from hfseg.models.attention.afnb import AfnbConfig
from hfseg.models.attention.apnb import ApnbConfig
from hfseg.models.attention.compositions import ApnbAfnbConfig, DualApnbAfnbConfig
from hfseg.models.attention.contract import (
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    TemporalAttention,
    stack_frames,
)
from hfseg.models.attention.criss_cross import CrissCrossConfig
from hfseg.models.attention.dual import DualConfig
from hfseg.models.attention.non_local import NonLocalConfig
from hfseg.models.attention.psp import PspConfig
from hfseg.models.attention.residual_non_local import ResidualNonLocalConfig

AttentionConfig = Annotated[
    NonLocalConfig
    | ResidualNonLocalConfig
    | PspConfig
    | ApnbConfig
    | AfnbConfig
    | CrissCrossConfig
    | DualConfig
    | ApnbAfnbConfig
    | DualApnbAfnbConfig,
    Field(discriminator="kind"),
]
"""Every block there is; `kind` picks one."""

__all__ = [
    "AfnbConfig",
    "ApnbAfnbConfig",
    "ApnbConfig",
    "AttentionBlockConfig",
    "AttentionConfig",
    "CrissCrossConfig",
    "DualApnbAfnbConfig",
    "DualConfig",
    "Extent",
    "Features",
    "Maps",
    "NonLocalConfig",
    "PspConfig",
    "Reading",
    "ResidualNonLocalConfig",
    "TemporalAttention",
    "stack_frames",
]
