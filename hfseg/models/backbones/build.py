"""Building an encoder: the concrete class, its weights, and a dry forward that shows it is a pyramid."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_BACKBONE_MAPPING

from hfseg.errors import ModelError
from hfseg.models.backbones import aliases
from hfseg.models.backbones.plan import Plan
from hfseg.models.segmenter import evaluating
from hfseg.models.sources import load, quiet

STRIDES = (4, 8, 16, 32)
PROBE_SIZES = ((64, 96), (96, 64))
"""Height and width of the dry forwards: neither square nor of one orientation."""
NEW: Mapping[str, str] = {"beit": r"fpn\.|hidden_states_norms\."}
"""Parameters of a backbone class that no published checkpoint holds, by family."""
NEW_EVERYWHERE = r"hidden_states_norms\."
KEY_MAPPING: Mapping[tuple[str, str], dict[str, str]] = {("maskformer-swin", "swin"): {r"^swin\.": "model."}}
"""How to rename the weights of one family (second) for the class of another (first)."""


def build_backbone(plan: Plan) -> tuple[Any, tuple[str, ...]]:
    """Build a pyramid encoder; also give the names of its parameters that no checkpoint holds.

    Raises:
        ModelError: Transformers has no backbone class for the family, it is no pyramid, or the weights do not fit.
    """
    if plan.family == aliases.MIT:
        raise ModelError(f"encoder `{plan.name}` is SegFormer's own", hint="use it with --decoder segformer")
    if type(plan.config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise ModelError(
            f"encoder `{plan.name}` is a `{plan.family}`, which Transformers has no backbone class for",
            hint=f"the families that work are {', '.join(f for f in aliases.FAMILIES if f != aliases.MIT)}",
        )
    backbone, new = build_encoder(MODEL_FOR_BACKBONE_MAPPING[type(plan.config)], plan)
    probe(backbone, plan.name)
    return backbone, new


def build_encoder(encoder_class: Any, plan: Plan) -> tuple[Any, tuple[str, ...]]:
    """Build `encoder_class` with the weights of the plan, or random ones; also give the names of what is new.

    Raises:
        ModelError: the weights cannot be had, or do not fit.
    """
    if plan.weights is None:
        try:
            with quiet():
                model = encoder_class(plan.config)
        except (ValueError, TypeError, IndexError, RuntimeError, ImportError) as error:
            raise ModelError(f"encoder `{plan.name}` cannot be built: {_reason(error)}") from None
        return model, tuple(name for name, _ in model.named_parameters())
    mapping = KEY_MAPPING.get((plan.family, plan.weights.model_type))
    loaded = load(encoder_class, plan.weights, config=plan.config, key_mapping=mapping)
    if loaded.mismatched:
        name, old, new_shape = loaded.mismatched[0]
        raise ModelError(
            f"weights of `{plan.weights.location}` do not fit encoder `{plan.name}`: `{name}` is {list(old)} in the "
            f"file and {list(new_shape)} in the model ({len(loaded.mismatched)} such parameters)",
            hint="take out the overrides that change shapes, or use `--pretrained none`",
        )
    allowed = re.compile(NEW.get(plan.family, NEW_EVERYWHERE))
    lacking = [name for name in loaded.missing if not allowed.match(name)]
    if lacking:
        raise ModelError(
            f"`{plan.weights.location}` lacks {len(lacking)} parameters of encoder `{plan.name}`: "
            f"{', '.join(f'`{name}`' for name in lacking[:3])}{' ...' if len(lacking) > 3 else ''}",
            hint="the file is of another model, or incomplete",
        )
    parameters = {name for name, _ in loaded.model.named_parameters()}
    return loaded.model, tuple(name for name in loaded.missing if name in parameters)


def probe(backbone: Any, name: str) -> None:
    """See by a dry forward that an encoder gives maps of its declared channels at strides 4, 8, 16, 32.

    Raises:
        ModelError: it does not; says what it gives.
    """
    for height, width in PROBE_SIZES:
        maps = _maps(backbone, name, height, width)
        if any(each.ndim != 4 for each in maps):
            raise ModelError(f"encoder `{name}` gives maps of shape {tuple(maps[0].shape)}: expected b c h w")
        channels = [each.shape[1] for each in maps]
        strides = [height / each.shape[2] for each in maps] + [width / each.shape[3] for each in maps]
        if strides != [*STRIDES, *STRIDES]:
            rounded = ", ".join(f"{stride:.3g}" for stride in strides[: len(maps)])
            raise ModelError(
                f"encoder `{name}` gives maps at strides {rounded}: expected 4, 8, 16, 32",
                hint="it is no pyramid; plain transformers keep one resolution, which this decoder cannot use",
            )
        if channels != list(backbone.channels):
            raise ModelError(
                f"encoder `{name}` gives maps of {channels} channels and declares {list(backbone.channels)}: "
                "its class in Transformers cannot feed a decoder"
            )


def _maps(backbone: Any, name: str, height: int, width: int) -> tuple[torch.Tensor, ...]:
    weight = next(backbone.parameters())
    image = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
    try:
        with evaluating(backbone), torch.no_grad():
            return tuple(backbone(image).feature_maps)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"encoder `{name}` cannot take images of {height} x {width} pixels: {_reason(error)}",
            hint="an encoder must take any size that is a multiple of 32",
        ) from None


def adopt(model: nn.Module, child: str, encoder: nn.Module) -> None:
    """Copy the weights of a built encoder into the child of `model` that has the same structure."""
    model.get_submodule(child).load_state_dict(encoder.state_dict())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
