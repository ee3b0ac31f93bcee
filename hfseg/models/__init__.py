"""Segmentation models: how each is configured and built, saved, opened and frozen."""

from typing import Annotated

from pydantic import Field

from hfseg.models.adapter import AdapterConfig, adapt, trains_adapters
from hfseg.models.backbones import ALIASES, FAMILIES
from hfseg.models.checkpoint import CheckpointModelConfig
from hfseg.models.fingerprint import fingerprint
from hfseg.models.freeze import FreezeConfig, freeze, parameter_table, unfreeze
from hfseg.models.fusion import FusionModelConfig
from hfseg.models.looking import AttentionMap, MemoryMap, attention_maps, has_attention, memory_maps
from hfseg.models.registration import register
from hfseg.models.segformer import SegformerModelConfig
from hfseg.models.segmenter import Segmenter
from hfseg.models.store import open_model, save_model
from hfseg.models.streaming import FrameStream, StreamConfig
from hfseg.models.tapped import Tapped
from hfseg.models.tmanet import TmanetModelConfig
from hfseg.models.upernet import UperNetModelConfig

ModelConfig = Annotated[
    SegformerModelConfig | UperNetModelConfig | FusionModelConfig | TmanetModelConfig | CheckpointModelConfig,
    Field(discriminator="kind"),
]
"""Every model there is; `kind` picks one."""

__all__ = [
    "ALIASES",
    "FAMILIES",
    "AdapterConfig",
    "AttentionMap",
    "CheckpointModelConfig",
    "FrameStream",
    "FreezeConfig",
    "FusionModelConfig",
    "MemoryMap",
    "ModelConfig",
    "SegformerModelConfig",
    "Segmenter",
    "StreamConfig",
    "Tapped",
    "TmanetModelConfig",
    "UperNetModelConfig",
    "adapt",
    "attention_maps",
    "fingerprint",
    "freeze",
    "has_attention",
    "memory_maps",
    "open_model",
    "parameter_table",
    "save_model",
    "trains_adapters",
    "unfreeze",
]

register()
