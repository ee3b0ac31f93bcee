"""Encoders by name: aliases, where their weights are, and how they are built."""

from hfseg.models.backbones.aliases import ALIASES, FAMILIES, find
from hfseg.models.backbones.build import build_backbone, build_encoder
from hfseg.models.backbones.plan import Plan, plan

__all__ = ["ALIASES", "FAMILIES", "Plan", "build_backbone", "build_encoder", "find", "plan"]
