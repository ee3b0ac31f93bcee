"""What the groups of an optimizer hold, for a person to look at."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hfseg.engine.optim import OptimConfig


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    depth: int
    """From the stem at 0 to the heads."""
    lr: float
    """Peak learning rate."""
    lr_scale: float
    """Its part of `optim.lr`."""
    weight_decay: float
    parameters: int
    """Numbers, not tensors."""
    first: str
    """The name of its first tensor in the model; `last` is that of its last one."""
    last: str


def describe_groups(
    model: nn.Module, optim: OptimConfig, *, depths: Mapping[str, int] | None = None
) -> tuple[Group, ...]:
    """Describe the groups that `optim` sorts a model's trainable parameters into, from shallow to deep."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return tuple(
        Group(
            depth=group["depth"],
            lr=optim.lr * group["lr_scale"],
            lr_scale=group["lr_scale"],
            weight_decay=group["weight_decay"],
            parameters=sum(parameter.numel() for parameter in group["params"]),
            first=names[id(group["params"][0])],
            last=names[id(group["params"][-1])],
        )
        for group in optim.groups(model, depths=depths)
    )
