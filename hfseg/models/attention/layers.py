"""Convolutions with a batch norm, as the published heads have them, and their cost."""

from torch import nn


def conv_norm(
    in_channels: int, out_channels: int, *, size: int = 1, bias: bool = False, relu: bool = True
) -> nn.Sequential:
    """A convolution that keeps the map's size, a batch norm, and, by default, a ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([nn.ReLU()] if relu else []))


def weights_in(*modules: nn.Module) -> int:
    """Count the weights of all convolutions inside: the multiply-adds for each place of a map, biases left out."""
    found = (each for module in modules for each in module.modules() if isinstance(each, nn.Conv2d))
    return sum(conv.weight.numel() for conv in found)
