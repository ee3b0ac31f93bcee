"""LoRA: small trained matrices beside the encoder's linear layers, which stay as they are.

Source: Hu et al., LoRA, arXiv 2106.09685. The layers are those of `peft`; what they add is W + (alpha / rank) B A, so
that a trained model can be written as a plain one.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hfseg.config import KIND, Config
from hfseg.errors import ModelError
from hfseg.models import anatomy
from hfseg.models.assemble import unused_parameters
from hfseg.models.depth import parameter_depths
from hfseg.models.segmenter import Segmenter

NAME = "default"
"""What peft calls adapters that have no name."""
DOWN, UP = f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
WRAPPED = ".base_layer."
ATTENTION = re.compile(r"(^|[._])(attn|attention|self_attn|self_attention)([._]|$)")


class AdapterConfig(Config):
    """What is trained of the encoder in the place of its own weights."""

    kind: Literal["none", "lora"] = "none"
    """`lora` freezes the encoder and trains two small matrices beside each of its linear layers; heads are trained."""
    rank: PositiveInt = 8
    """Columns of the one matrix and rows of the other."""
    alpha: PositiveFloat = 16.0
    """What the matrices add counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a layer's inputs that its matrices do not see in a step."""
    target: Literal["linear", "attention"] = "linear"
    """`linear` are all linear layers of the encoder, `attention` those of its attention, as in LoRA's paper."""
    save: Literal["merged", "adapters"] = "merged"
    """`merged` writes plain models; `adapters` what was trained alone, and the name of the model it belongs to."""

    @model_validator(mode="after")
    def _used(self) -> "AdapterConfig":
        given = {key: getattr(self, key) for key in type(self).model_fields if key != KIND}
        for key, value in given.items():
            if self.kind == "none" and value != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` has no effect without an adapter: got {value!r}\n\nhint: --adapter lora")
        return self


def adapt(segmenter: Segmenter, config: AdapterConfig) -> None:
    """Freeze stem and stages of the encoder and give its linear layers trained matrices, which add nothing at first.

    Batch norms of the encoder keep their statistics. Weights that were drawn at random are renamed with their layers
    in `new_parameters`, where the matrices come to stand too.

    Raises:
        ModelError: `peft` is not installed, the encoder has no such layers, one of them is not called as a layer, or
            adapters are to be saved without an encoder that could be had again.
    """
    if config.kind == "none":
        return
    hf = segmenter.hf
    targets = _targets(hf, config)
    random = [name for name in segmenter.new_parameters if name in _body(hf)]
    if config.save == "adapters" and random:
        raise ModelError(
            f"`adapter.save` is `adapters` and {len(random)} of the encoder's weights are random, `{random[0]}` for "
            "one: there is no model that the adapters belong to",
            hint="give --pretrained, or leave `adapter.save` at `merged`",
        )
    trained = {name for name, parameter in hf.named_parameters() if parameter.requires_grad} - _body(hf)
    _inject(hf, config, targets)
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_(is_adapter(name) or name in trained)
    renamed = (_wrapped(name, targets) for name in segmenter.new_parameters)
    segmenter.new_parameters = (*renamed, *(name for name, _ in hf.named_parameters() if is_adapter(name)))
    segmenter.frozen_modules = held_norms(hf)
    segmenter.train(segmenter.training)
    idle = [name for name in unused_parameters(segmenter) if is_adapter(name)]
    if idle:
        raise ModelError(f"`{type(hf).__name__}` does not call `{idle[0].partition('.lora_')[0]}` as a layer: no LoRA")


def is_adapter(name: str) -> bool:
    """Whether a parameter is one of the matrices."""
    return ".lora_" in name


def trains_adapters(segmenter: Segmenter) -> bool:
    """Whether any of the matrices is trained."""
    return any(is_adapter(name) and parameter.requires_grad for name, parameter in segmenter.hf.named_parameters())


def held_norms(hf: Any) -> tuple[str, ...]:
    """Name the batch norms of an encoder with adapters, whose statistics stay as they are; none of any other."""
    body = _body(hf) if adapter_scale(hf) is not None else set()
    norms = (name for name, module in hf.named_modules() if isinstance(module, _BatchNorm))
    return tuple(name for name in norms if f"{name}.weight" in body)


def adapter_scale(hf: Any) -> float | None:
    """What the matrices count, alpha / rank; None for a model without adapters."""
    layers = (hf.get_submodule(name.removesuffix(DOWN)) for name, _ in hf.named_parameters() if name.endswith(DOWN))
    return next((float(layer.scaling[NAME]) for layer in layers), None)


def merged(state: Mapping[str, Tensor], *, scale: float) -> dict[str, Tensor]:
    """Add the matrices in a state to the weights they belong to; the names are those of a model without adapters."""
    plain = {name.replace(WRAPPED, "."): value for name, value in state.items() if not is_adapter(name)}
    for name in state:
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            weight = plain[f"{layer}.weight"]
            added = state[f"{layer}{UP}"].double() @ state[name].double()
            plain[f"{layer}.weight"] = (weight.double() + scale * added).to(weight.dtype)
    return plain


def apart(hf: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part the state of a model with adapters: what stayed as it was, by plain names, and all the rest."""
    fixed = {name.rpartition(".")[0] for name in _body(hf)}
    state = hf.state_dict()
    kept = {name: value for name, value in state.items() if name.rpartition(".")[0] not in fixed}
    return {name.replace(WRAPPED, "."): state[name] for name in state if name not in kept}, kept


def _body(hf: Any) -> set[str]:
    """The parameters of the encoder's stem and stages, adapters left out."""
    depths = parameter_depths(hf, by="stage")
    return {name for name, depth in depths.items() if depth < max(depths.values()) and not is_adapter(name)}


def _targets(hf: Any, config: AdapterConfig) -> list[str]:
    """The linear layers that get matrices: those that outputs depend on, of exactly this class."""
    body = _body(hf)
    linear = [
        name
        for name, module in hf.named_modules()
        if type(module) is nn.Linear and f"{name}.weight" in body and module.weight.requires_grad
    ]
    found = linear if config.target == "linear" else [name for name in linear if ATTENTION.search(name)]
    if not found:
        encoder = type(hf.get_submodule(anatomy.encoder_name(hf))).__name__
        which = "linear layers" if config.target == "linear" else "linear layers in attention"
        others = "`adapter.target` linear, or " if linear else ""
        raise ModelError(
            f"LoRA has nothing to work on: `{encoder}` has no {which}",
            hint=f"{others}`--freeze backbone.stages.0-2` trains a part of any encoder",
        )
    return found


def _inject(hf: Any, config: AdapterConfig, targets: list[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ModelError("adapters need `peft`, which is not installed", hint="pip install 'hfseg[peft]'") from None
    lora = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(lora, hf)


def _wrapped(name: str, targets: list[str]) -> str:
    layer, _, last = name.rpartition(".")
    return f"{layer}{WRAPPED}{last}" if layer in targets else name
