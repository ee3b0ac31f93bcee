"""What XLA devices (TPUs) need: graphs of few shapes, each cut after a step.

XLA records operations into a graph, and compiles every graph that it has not seen, for seconds to minutes; a graph is
known by its shapes. Training has one shape. Scoring has as many as there are sizes of images and of labels, so only
the model runs on the device there: what it says, at its decoder's stride, goes on at the host.

`torch_xla` is imported where an XLA device is met, which is never without it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hfseg.errors import LaunchError
from hfseg.values import SegOutput

XLA = "xla"
"""Type of the device, as torch names it."""
_FOR_OTHERS = {
    "compile": "which compiles everything anyway",
    "channels_last": "which lays out tensors by itself",
    "gradient_checkpointing": "where what is computed again draws other random numbers",
}
"""Settings of the runtime that XLA does not take, and why."""


def check_xla(device: torch.device, settings: Mapping[str, Any], *, world_size: int) -> None:
    """Refuse what does not run on XLA devices; `settings` are those of the runtime.

    Raises:
        LaunchError: there are several of them, or a setting is for other devices.
    """
    if device.type != XLA:
        return
    if settings["cpu"]:
        raise LaunchError(
            "`cpu` was asked for: got device `xla`, which Accelerate takes wherever `torch_xla` is installed",
            hint="set the environment variable USE_TORCH_XLA=false",
        )
    if world_size > 1:
        raise LaunchError(
            f"several XLA devices cannot train together yet: got {world_size} processes, expected 1",
            hint="start one process with `hfseg finetune`, without a launcher",
        )
    if settings["precision"] == "fp16":
        raise LaunchError(
            "precision `fp16` needs a GPU: got device `xla`", hint="use `--precision bf16`, which is what TPUs have"
        )
    for name, reason in _FOR_OTHERS.items():
        if settings[name]:
            raise LaunchError(f"`runtime.{name}` is for other devices: got device `xla`, {reason}", hint="leave it out")


def seed_generators(number: int, device: torch.device) -> None:
    """Seed torch's generators; that of XLA is one more."""
    torch.manual_seed(number)
    if device.type == XLA:
        import torch_xla

        torch_xla.manual_seed(number, device=device)


def cut_graph(device: torch.device, *, wait: bool = False) -> None:
    """Start what was recorded and begin a new graph; other devices record nothing.

    Numbers that change from step to step are data, but two that are equal are one: a graph in which they meet for the
    first time is compiled anew.
    """
    if device.type == XLA:
        import torch_xla

        torch_xla.sync(wait=wait)


def unshared(value: Tensor) -> Tensor:
    """Compute, on XLA, what is to be copied into another tensor.

    A plain copy, and a clone too, shares memory until one of the two changes, which makes other graphs.
    """
    return value * 1 if value.device.type == XLA else value


def stacked(values: Sequence[Shaped[Tensor, ""]]) -> Shaped[Tensor, " n"]:
    """Stack numbers where they are; from XLA they are fetched, as every length would be a graph of its own."""
    return torch.stack([value.cpu() if value.device.type == XLA else value for value in values])


def correct_norms(model: nn.Module) -> nn.Module:
    """Let the batch norms of a model that will be on XLA keep the variances that they keep elsewhere, in place.

    What moves the variance is that of a batch's n values taken as samples: divided by n - 1. `torch_xla` 2.9 divides by
    n, which for UPerNet's norms over 1 x 1 maps and 8 images is an eighth less.
    """
    before: dict[nn.Module, Tensor] = {}

    def keep(module: Any, _inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            before[module] = module.running_var.clone()

    @torch.no_grad()
    def correct(module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if module.training:
            count = inputs[0].numel() / inputs[0].shape[1]
            added = module.running_var - (1 - module.momentum) * before.pop(module)
            module.running_var.data.add_(added / (count - 1))  # backward, which keeps it, does not read it in training

    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(keep)
            module.register_forward_hook(correct)
    return model


def is_on_xla(model: nn.Module) -> bool:
    """Whether a model's weights are on an XLA device."""
    return any(parameter.device.type == XLA for parameter in model.parameters())


class FromHost(nn.Module):
    """A model on an XLA device in evaluation mode, called from the host: images go there, logits come back.

    Batches are filled up to a power of two with copies of their last image, which are cut off again: batches of up to
    n images make log2(n) + 1 graphs at most.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> SegOutput:
        """Give the logits, on the host, without gradients."""
        device = next(self.model.parameters()).device
        count = len(pixel_values)
        missing = (1 << (count - 1).bit_length()) - count
        with torch.inference_mode(False), torch.no_grad():  # XLA's tensors cannot be inference tensors
            filled = torch.cat([pixel_values, pixel_values[-1:].expand(missing, *pixel_values.shape[1:])])
            logits = self.model(filled.to(device)).logits
            cut_graph(device)
        return SegOutput(logits.cpu()[:count])
