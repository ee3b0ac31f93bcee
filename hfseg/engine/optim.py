"""Optimizers with the usual exceptions from weight decay, and learning rates as pure functions of the step."""

import math
from collections.abc import Iterable
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
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = BETAS
    """Decay of Adam's running means of the gradient and of its square."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = MOMENTUM
    """Momentum of `sgd`."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this global norm; not at all where it is not given."""
    schedule: Literal["poly", "cosine", "multi-step", "constant"] = "poly"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: NonNegativeInt | None = None
    """Optimizer steps of linear warm-up; where it is not given, a tenth of the run but not more than 1500."""
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
    def _milestones_belong_to_multi_step(self) -> "OptimConfig":
        if bool(self.milestones) != (self.schedule == "multi-step"):
            raise ValueError(
                f"`milestones` belong to the multi-step schedule: got schedule {self.schedule} and "
                f"{len(self.milestones)} milestones"
            )
        if any(part >= 1 for part in self.milestones):
            raise ValueError(f"`milestones` are parts of the run, below 1: got {self.milestones}")
        return self

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer of every parameter that asks for a gradient, fused where it lives on a GPU."""
        decayed, undecayed = split_by_decay(model.named_parameters())
        both: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        groups = [group for group in both if group["params"]]
        fused = all(parameter.is_cuda for parameter in (*decayed, *undecayed)) or None
        match self.name:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=fused)
            case "adam":
                return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, fused=fused)
            case "sgd":
                return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Give the learning rate of optimizer step `step`, counted from 0, of `num_steps`."""
        warmup = min(1500, num_steps // 10) if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, num_steps - warmup)
        return self.lr * self._shape(progress, (step + 1) / num_steps)

    def _shape(self, progress: float, done: float) -> float:
        match self.schedule:
            case "poly":
                return float((1 - progress) ** self.power)
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))
            case "multi-step":
                return float(self.gamma ** sum(done > part for part in self.milestones))
            case "constant":
                return 1.0


def split_by_decay(
    named: Iterable[tuple[str, nn.Parameter]],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split trainable parameters into those with weight decay and those without.

    Vectors (biases, norms, layer scales) have none, nor has what a name of `UNDECAYED` marks.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim <= 1 or any(mark in name for mark in UNDECAYED)
        (undecayed if plain else decayed).append(parameter)
    return decayed, undecayed


def carry_over(old: torch.optim.Optimizer, new: torch.optim.Optimizer) -> None:
    """Give each parameter of `new` the state it had in `old`; parameters new to it start without."""
    for group in new.param_groups:
        for parameter in group["params"]:
            if parameter in old.state:
                new.state[parameter] = old.state[parameter]
