"""Building an encoder: the concrete class, its weights, and a dry forward that shows what it is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from hfseg.errors import ModelError
from hfseg.models.backbones import aliases, timm
from hfseg.models.backbones.families import Traits, traits_of
from hfseg.models.backbones.neck import PyramidBackbone, PyramidConfig
from hfseg.models.backbones.plan import Plan
from hfseg.models.backbones.probe import Kind, inspect, judge
from hfseg.models.backbones.weights import WeightsFile, load_weights, unexpected
from hfseg.models.sources import FAILURES, Loaded, load, quiet, reason


@dataclass(frozen=True)
class Built:
    """An encoder with its weights."""

    module: Any
    config: Any
    new_parameters: tuple[str, ...]
    """The names of its parameters that no checkpoint gave."""
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights of segmentation heads that came with the encoder's, by Transformers' names."""


def build_backbone(plan: Plan) -> Built:
    """Build a pyramid encoder; one that keeps one stride gets a neck that makes a pyramid of it.

    Raises:
        ModelError: Transformers has no backbone class for the family, no pyramid can be made of it, or the weights do
            not fit.
    """
    if plan.family == aliases.MIT:
        raise ModelError(f"encoder `{plan.name}` is SegFormer's own", hint="use it with --decoder segformer")
    built = build_encoder(backbone_class(plan), plan)
    shape = inspect(built.module, plan.name)
    if judge(shape, plan.name) is Kind.PYRAMID:
        return built
    return through_neck(built, patch_size=patch_size(built.config, shape.strides[0][0]))


def backbone_class(plan: Plan) -> Any:
    """Find the class of an encoder.

    Raises:
        ModelError: there is none.
    """
    if type(plan.config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise ModelError(
            f"encoder `{plan.name}` is a `{plan.family}`, which Transformers has no backbone class for",
            hint=f"the families that work are {', '.join(f for f in aliases.FAMILIES if f != aliases.MIT)}",
        )
    return MODEL_FOR_BACKBONE_MAPPING[type(plan.config)]


def through_neck(built: Built, *, patch_size: int) -> Built:
    """Put the neck behind an encoder of one stride."""
    config = PyramidConfig(backbone_config=built.config, patch_size=patch_size)
    with quiet():
        module = PyramidBackbone(config)
    module.encoder = built.module
    neck = (name for name, _ in module.named_parameters() if name.startswith("neck."))
    new_parameters = (*(f"encoder.{name}" for name in built.new_parameters), *neck)
    return replace(built, module=module, config=config, new_parameters=new_parameters)


def patch_size(config: Any, stride: float) -> int:
    """Pixels on a side of an encoder's patches: as its config says, else the stride that was seen."""
    declared = getattr(config, "patch_size", None) or round(stride)
    sides = {declared} if isinstance(declared, int) else set(declared)
    if len(sides) > 1:
        raise ModelError(f"patches of `{config.model_type}` measure {declared} pixels: expected squares")
    return int(sides.pop())


def build_encoder(encoder_class: Any, plan: Plan) -> Built:
    """Build `encoder_class` with the weights of the plan, or random ones.

    Raises:
        ModelError: the weights cannot be had, or do not fit.
    """
    if isinstance(plan.config, timm.TimmConfig):
        timm.import_timm()
    heads: Mapping[str, Tensor] = {}
    traits = traits_of(plan.family)
    match plan.weights:
        case None:
            return _random(encoder_class, plan)
        case timm.Published():
            return Built(timm.load_published(plan.config), plan.config, ())
        case WeightsFile() if isinstance(plan.config, timm.TimmConfig):
            loaded = timm.load_weights(plan.config, plan.weights)
        case WeightsFile():
            loaded, heads = load_weights(encoder_class, plan.weights, config=plan.config, traits=traits)
        case _:
            mapping = dict(traits.reads.get(plan.weights.model_type, {})) or None
            loaded = load(encoder_class, plan.weights, config=plan.config, key_mapping=mapping)
    _check_fit(plan, loaded, traits)
    parameters = {name for name, _ in loaded.model.named_parameters()}
    new_parameters = tuple(name for name in loaded.missing if name in parameters)
    return Built(loaded.model, plan.config, new_parameters, heads)


def adopt(model: nn.Module, child: str, encoder: nn.Module) -> None:
    """Copy the weights of a built encoder into the child of `model` that has the same structure."""
    model.get_submodule(child).load_state_dict(encoder.state_dict())


def _random(encoder_class: Any, plan: Plan) -> Built:
    try:
        with quiet():
            model = encoder_class(plan.config)
    except FAILURES as error:
        raise ModelError(f"encoder `{plan.name}` cannot be built: {reason(error)}") from None
    return Built(model, plan.config, tuple(name for name, _ in model.named_parameters()))


def _check_fit(plan: Plan, loaded: Loaded, traits: Traits) -> None:
    """See that nothing is missing but what is new, that shapes agree, and that there is nothing else."""
    assert plan.weights is not None
    where = plan.weights.location
    if loaded.mismatched:
        name, old, new_shape = loaded.mismatched[0]
        raise ModelError(
            f"weights of `{where}` do not fit encoder `{plan.name}`: `{name}` is {list(old)} in the "
            f"file and {list(new_shape)} in the model ({len(loaded.mismatched)} such parameters)",
            hint="take out the overrides that change shapes, or use `--pretrained none`",
        )
    lacking = [name for name in loaded.missing if not re.match(traits.new, name)]
    if lacking:
        raise ModelError(
            f"`{where}` lacks {len(lacking)} parameters of encoder `{plan.name}`: {_some(lacking)}",
            hint="the file is of another model, or incomplete",
        )
    strange = unexpected(loaded) if isinstance(plan.weights, WeightsFile) or traits.is_known_whole else ()
    if strange:
        raise ModelError(
            f"`{where}` holds {len(strange)} parameters that encoder `{plan.name}` does not have: {_some(strange)}",
            hint="the file is of another model, or of another size of it",
        )


def _some(names: Any) -> str:
    return f"{', '.join(f'`{name}`' for name in names[:3])}{' ...' if len(names) > 3 else ''}"
