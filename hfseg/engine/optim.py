"""Optimizers with the usual exceptions from weight decay, and learning rates as pure functions of the step."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator
from torch import nn

from hfseg.config import Config

UNDECAYED = (
    *("position_bias", "relative_position", "position_embedding", "pos_embed", "rpb"),
    *("cls_token", "mask_token", "register_tokens"),
    *("grn.", "logit_scale", "layer_scale"),
)
"""Parts of parameter names that mark position tables, tokens, and norms and scales that are no vectors: not decayed."""
Decay = Annotated[float, Field(ge=0, lt=1)]
BETAS = (0.9, 0.999)
MOMENTUM = 0.9


class OptimConfig(Config):
    """How weights move."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer; `adam` and `sgd` add the weight decay to the gradient, `adamw` takes it off the weights."""
    lr: PositiveFloat = 6e-5
    """Peak learning rate, reached after `warmup_steps`."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay; norms, biases, layer scales, tokens and position tables have none."""
    betas: tuple[Decay, Decay] = BETAS
    """Decay of Adam's running means of the gradient and of its square."""
    momentum: Decay = MOMENTUM
    """Momentum of `sgd`."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this global norm; not at all where it is not given."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from one depth of the encoder to the one before it: 0.9 as ConvNeXt, 0.8 as EoMT."""
    layer_decay_by: Literal["stage", "block"] = "stage"
    """What a step of depth is: one of the encoder's stages, or one of its blocks."""
    head_lr: PositiveFloat = 1.0
    """Factor of the learning rate of everything that is not the encoder: 10 in SegFormer's paper."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Average the weights over the steps with this decay, for instance 0.999, and validate and save the average."""
    auto_batch: bool = False
    """Replace `loader.batch_size` by the largest batch that the device holds, and `train.accumulation` by as many
    batches as keep the images of a step. Batch norms count over a batch, so they see more or fewer images."""
    schedule: Literal["poly", "cosine", "one-cycle", "multi-step", "constant"] = "poly"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: NonNegativeInt | None = None
    """Optimizer steps of linear warm-up; where it is not given, a tenth of the run but not more than 1500. The
    `one-cycle` schedule rises along a cosine instead, for 0.3 of the run."""
    power: PositiveFloat = 1.0
    """Exponent of the `poly` schedule."""
    milestones: tuple[PositiveFloat, ...] = ()
    """Parts of the run (0 to 1) after which the `multi-step` schedule multiplies by `gamma`: [0.5, 0.6] are epochs 25
    and 30 of 50."""
    gamma: PositiveFloat = 0.1
    """Factor of the `multi-step` schedule."""

    @model_validator(mode="after")
    def _settings_belong_to_the_optimizer(self) -> "OptimConfig":
        idle = {"betas": (self.betas, BETAS)} if self.name == "sgd" else {"momentum": (self.momentum, MOMENTUM)}
        for key, (value, default) in idle.items():
            if value != default:
                raise ValueError(f"`{key}` has no effect on {self.name}: got {value}\n\nhint: leave it out")
        return self

    @model_validator(mode="after")
    def _settings_belong_to_the_schedule(self) -> "OptimConfig":
        idle = {"power": "poly", "gamma": "multi-step"}
        for key, schedule in idle.items():
            value = getattr(self, key)
            if self.schedule != schedule and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"`{key}` has no effect on the {self.schedule} schedule: got {value:g}\n\n"
                    f"hint: it belongs to optim.schedule={schedule}"
                )
        return self

    @model_validator(mode="after")
    def _depth_is_counted_for_a_decay(self) -> "OptimConfig":
        if self.layer_decay_by != "stage" and self.layer_decay == 1:
            raise ValueError(
                f"`layer_decay_by` has no effect without `layer_decay`: got {self.layer_decay_by}\n\n"
                "hint: for instance optim.layer_decay=0.9"
            )
        return self

    @model_validator(mode="after")
    def _milestones_belong_to_multi_step(self) -> "OptimConfig":
        if bool(self.milestones) != (self.schedule == "multi-step"):
            raise ValueError(
                f"`milestones` belong to the multi-step schedule: got schedule {self.schedule} and "
                f"{len(self.milestones)} milestones"
            )
        if any(part >= 1 for part in self.milestones):
            raise ValueError(f"`milestones` are parts of the run, below 1: got {self.milestones}")
        return self

    def build(self, model: nn.Module, *, depths: Mapping[str, int] | None = None) -> torch.optim.Optimizer:
        """Make the optimizer of every parameter that asks for a gradient, fused where it lives on a GPU.

        `depths` holds the depth of each parameter by name, the largest for the heads; without it all have one rate.
        """
        groups = self.groups(model, depths=depths)
        fused = all(parameter.is_cuda for group in groups for parameter in group["params"]) or None
        match self.name:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
            case "adam":
                return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, fused=fused)
            case "sgd":
                return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused)

    def groups(self, model: nn.Module, *, depths: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """Sort the trainable parameters into groups of one `weight_decay` and one `lr_scale`, from shallow to deep."""
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        places = {name: (0 if depths is None else depths[name], decays(name, named[name])) for name in named}
        deepest = max(depths.values()) if depths else 0
        return [
            {
                "params": [named[name] for name in named if places[name] == place],
                "weight_decay": self.weight_decay if place[1] else 0.0,
                "lr_scale": 1.0 if depths is None else self._scale(place[0], deepest),
                "depth": place[0],
            }
            for place in sorted(set(places.values()), key=lambda place: (place[0], not place[1]))
        ]

    @property
    def differs_by_depth(self) -> bool:
        """Whether learning rates need to know how deep parameters lie."""
        return self.layer_decay != 1 or self.head_lr != 1

    def _scale(self, depth: int, deepest: int) -> float:
        return self.head_lr if depth == deepest else float(self.layer_decay ** (deepest - depth))

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int, num_steps: int) -> float:
        """Give every group its learning rate for a step, and return the one of scale 1."""
        lr = self.lr_at(step, num_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr

    def lr_at(self, step: int, num_steps: int) -> float:
        """Give the learning rate of optimizer step `step`, counted from 0, of `num_steps`."""
        if self.schedule == "one-cycle":
            return self.lr * self._one_cycle(step, num_steps)
        warmup = min(1500, num_steps // 10) if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, num_steps - warmup)
        match self.schedule:
            case "poly":
                return float(self.lr * (1 - progress) ** self.power)
            case "cosine":
                return self.lr * _cosine(1.0, 0.0, progress)
            case "multi-step":
                done = (step + 1) / num_steps
                return float(self.lr * self.gamma ** sum(done > part for part in self.milestones))
            case "constant":
                return self.lr

    def _one_cycle(self, step: int, num_steps: int) -> float:
        """Rise from 1/25 and fall to 1/250,000, both along a cosine.

        Source: Smith and Topin, arXiv 1708.07120, with the numbers of torch's `OneCycleLR`.
        """
        rise = 0.3 * num_steps - 1 if self.warmup_steps is None else self.warmup_steps
        if step <= rise:
            return _cosine(1 / 25, 1.0, step / max(rise, 1e-9))
        return _cosine(1.0, 1 / 25e4, (step - rise) / max(1e-9, num_steps - 1 - rise))


def _cosine(start: float, end: float, part: float) -> float:
    """Go from one value to the other along half a wave."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether a parameter has weight decay.

    Vectors (biases, norms, layer scales) have none, nor has what a name of `UNDECAYED` marks.
    """
    return parameter.ndim > 1 and not any(mark in name for mark in UNDECAYED)


def carry_over(old: torch.optim.Optimizer, new: torch.optim.Optimizer) -> None:
    """Give each parameter of `new` the state it had in `old`; parameters new to it start without."""
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter in old.state:
                new.state[parameter] = old.state[parameter]
