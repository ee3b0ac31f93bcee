"""Segmentation models: how each is configured and built, saved, opened and frozen."""

from typing import Annotated

from pydantic import Field

from hfseg.models.backbones import ALIASES, FAMILIES
from hfseg.models.checkpoint import CheckpointModelConfig
from hfseg.models.freeze import FreezeConfig, freeze, parameter_table, unfreeze
from hfseg.models.segformer import SegformerModelConfig
from hfseg.models.segmenter import Segmenter
from hfseg.models.store import open_model, save_model
from hfseg.models.upernet import UperNetModelConfig

ModelConfig = Annotated[SegformerModelConfig | UperNetModelConfig | CheckpointModelConfig, Field(discriminator="kind")]
"""Every model there is; `kind` picks one."""

__all__ = [
    "ALIASES",
    "FAMILIES",
    "CheckpointModelConfig",
    "FreezeConfig",
    "ModelConfig",
    "SegformerModelConfig",
    "Segmenter",
    "UperNetModelConfig",
    "freeze",
    "open_model",
    "parameter_table",
    "save_model",
    "unfreeze",
]
