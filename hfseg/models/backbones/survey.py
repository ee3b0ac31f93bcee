"""Which encoders this installation can use, found by trying every one of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING, SegformerConfig, SegformerModel
from transformers.modeling_outputs import BackboneOutput

from hfseg.errors import ModelError
from hfseg.models.backbones import aliases, timm
from hfseg.models.backbones.build import Built, backbone_class, patch_size, through_neck
from hfseg.models.backbones.neck import PyramidConfig
from hfseg.models.backbones.plan import RANDOM, Plan, plan, plan_default
from hfseg.models.backbones.probe import Kind, Shape, inspect, judge
from hfseg.models.dilation import DILATABLE
from hfseg.models.segmenter import OWN_STRIDE
from hfseg.models.sources import FAILURES, quiet, reason

REFUSED = "refused"
SEGFORMER_ALONE = "with --decoder segformer"
OUTPUT_STRIDES = (8, 16, OWN_STRIDE)
TIMM_EXAMPLE = "resnet50"
TIMM_FAMILIES = ("timm_backbone", timm.TimmConfig.model_type)
"""Transformers' class and ours: one row stands for both."""


@dataclass(frozen=True)
class SurveyRow:
    """What is known of one family of encoders after trying its default size."""

    family: str
    aliases: tuple[str, ...]
    status: str
    """`pyramid`, `through the neck`, or `refused`."""
    strides: tuple[float, ...]
    """Pixels between neighbours on its maps, as the decoder gets them; empty where it gives none."""
    channels: tuple[int, ...]
    note: str
    """Why it is refused, or what is particular to it."""
    checkpoint: str | None = None
    """The default weights, where there are any."""
    output_strides: tuple[int, ...] = ()
    """Pixels between neighbours on its last map that `model.output_stride` of the decoder `tmanet` can ask for."""


def survey() -> list[SurveyRow]:
    """Try the default size of every family, those with aliases first; without weights or a network.

    Modules are built and run on PyTorch's `meta` device, where tensors have shapes and no memory; only what fails there
    is run in earnest.
    """
    by_family: dict[str, list[str]] = {family: [] for family in aliases.FAMILIES}
    for alias, (family, _, _) in aliases.ALIASES.items():
        by_family[family].append(alias)
    known = [_aliased(family, tuple(names)) for family, names in by_family.items()]
    others = [str(config_class.model_type) for config_class in MODEL_FOR_BACKBONE_MAPPING]
    apart = (*by_family, *TIMM_FAMILIES, PyramidConfig.model_type)
    return [*known, _timm(), *(_row(partial(plan_default, name), name) for name in others if name not in apart)]


def look_at(name: str) -> SurveyRow:
    """Try one encoder: an alias, a family of Transformers, `timm:NAME`, a Hub id or a local folder with a config.

    Raises:
        ModelError: there is no such encoder.
    """
    alias = aliases.find(name)
    if alias is None and name in CONFIG_MAPPING and CONFIG_MAPPING[name] in MODEL_FOR_BACKBONE_MAPPING:
        return _row(partial(plan_default, name), name)
    planned = plan(name, RANDOM, overrides={})
    row = _row(lambda: planned, planned.family, (alias.name,) if alias else ())
    return replace(row, checkpoint=alias.checkpoint) if alias else row


def _aliased(family: str, names: tuple[str, ...]) -> SurveyRow:
    return replace(look_at(names[0]), family=family, aliases=names)


def _timm() -> SurveyRow:
    row = _row(lambda: plan(f"{timm.PREFIX}{TIMM_EXAMPLE}", RANDOM, overrides={}), "timm", (f"{timm.PREFIX}NAME",))
    return row if row.status == REFUSED else replace(row, note=f"any name of timm's; tried with {TIMM_EXAMPLE}")


def _row(planned: Callable[[], Plan], family: str, names: tuple[str, ...] = ()) -> SurveyRow:
    """What can be seen of an encoder; that it fails is believed only of a real run."""
    try:
        try:
            with torch.device("meta"):
                kind, shape, note = _try(planned())
        except (ModelError, *FAILURES):
            kind, shape, note = _try(planned())
    except ModelError as error:
        return SurveyRow(family, names, REFUSED, (), (), error.message)
    except FAILURES as error:
        return SurveyRow(family, names, REFUSED, (), (), f"its class cannot be built: {reason(error)}")
    output_strides = () if SEGFORMER_ALONE in note else _output_strides(planned().config)
    return SurveyRow(family, names, kind.value, shape.strides[0], shape.channels, note, output_strides=output_strides)


def _output_strides(config: Any) -> tuple[int, ...]:
    return OUTPUT_STRIDES if config.model_type in DILATABLE else OUTPUT_STRIDES[-1:]


def _try(planned: Plan) -> tuple[Kind, Shape, str]:
    """Build an encoder and look at its maps, behind the neck if it needs one."""
    with quiet():
        is_mit = isinstance(planned.config, SegformerConfig)
        backbone = (_SegformerMaps if is_mit else backbone_class(planned))(planned.config)
    shape = inspect(backbone, planned.name)
    kind = judge(shape, planned.name)
    note = SEGFORMER_ALONE if is_mit else "" if shape.takes_any_size else "sizes must be multiples of 32"
    if kind is Kind.ONE_STRIDE:
        patch = patch_size(planned.config, shape.strides[0][0])
        with_neck = through_neck(Built(backbone, planned.config, ()), patch_size=patch)
        shape, note = inspect(with_neck.module, planned.name), f"patches of {patch} pixels"
    return kind, shape, note


class _SegformerMaps(nn.Module):
    """The encoder of a SegFormer, which has no backbone class, as one."""

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.hidden_sizes
        self.model = SegformerModel(config)

    def forward(self, pixel_values: Float[Tensor, "b c h w"]) -> BackboneOutput:
        """Give the maps of the four stages."""
        return BackboneOutput(feature_maps=self.model(pixel_values, output_hidden_states=True).hidden_states)
