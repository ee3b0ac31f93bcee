"""Finer maps from the weights of a coarser net: strides become dilations.

Where a net halves its map, a dilated one keeps it, and every convolution behind that place reaches twice as far, so
that it reads the places it read before. The convolution that halved the map reads the finer map as it is: hence the
"contracted" dilations of ResNets with bottlenecks, 1 in the first block of stage 3 and 2 in the others, 2 in the first
block of stage 4 and 4 in the others. With zeros around the map, every s-th place of the dilated net's features equals
the features of the net it was made from, to rounding, unless a layer averages over the whole map (ConvNeXt V2's
response norm, squeeze and excitation).

Source: the "a trous" algorithm after Chen et al., arXiv 1606.00915; the contracted form of open-mmlab's ResNets, with
which it agrees for bottlenecks. In the basic blocks of ResNet-18 and 34 their second convolution is never dilated; here
it is, in the first block too, because it stands behind the stride.
"""

import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone

from hfseg.errors import ModelError
from hfseg.models.segmenter import OWN_STRIDE, evaluating

PROBE_SIZE = 128
"""Pixels on a side of the image that is sent through to see at which stride each convolution works."""
REWRITTEN = ("resnet", "convnext", "convnextv2", "dinov3_convnext", "hgnet_v2")
"""Families whose convolutions are rewritten here."""
CONFIGURED = ("bit", "mobilenet_v2_backbone")
"""Families whose own class does it, by `output_stride` in its config."""
DILATABLE = (*REWRITTEN, *CONFIGURED)


class Change(NamedTuple):
    """What becomes of one convolution."""

    conv: nn.Conv2d
    stride: tuple[int, int]
    dilation: int


def build_dilated(config: Any, output_stride: int) -> Any:
    """Build the encoder of a config; its maps lie no further apart than `output_stride` pixels: 8, 16, or 32 as it is.

    Its parameters have the names and shapes they have at its own stride.

    Raises:
        ModelError: the encoder's maps do not come from convolutions that can be dilated.
    """
    if output_stride >= OWN_STRIDE:
        return AutoBackbone.from_config(config)
    if config.model_type not in DILATABLE:
        raise ModelError(
            f"encoder family `{config.model_type}` keeps the stride of its maps: `output_stride` is {output_stride}, "
            f"expected {OWN_STRIDE} or nothing",
            hint=f"the families that can be dilated are {', '.join(DILATABLE)}",
        )
    if config.model_type in CONFIGURED:
        config = copy.deepcopy(config)
        config.output_stride = output_stride
        backbone = AutoBackbone.from_config(config)
    else:
        backbone = AutoBackbone.from_config(config)
        dilate(backbone, output_stride)
    strides = [PROBE_SIZE // each.shape[-1] for each in _probe(backbone)]
    assert max(strides) == output_stride, f"maps of `{config.model_type}` lie {strides} pixels apart"
    return backbone


def dilate(backbone: nn.Module, output_stride: int) -> None:
    """Rewrite, in place, every convolution that works at a larger stride than `output_stride`, or gives a larger one.

    A forward shows at which stride each stands; convolutions of an even size get the padding of the rewritten net from
    a hook, as it is no longer the same on both sides.
    """
    changes: list[Change] = []

    def note(conv: Any, inputs: Any, output: Tensor) -> None:
        before, after = (max(1.0, PROBE_SIZE / each.shape[-1] / output_stride) for each in (inputs[0], output))
        change = Change(conv, _over(conv.stride, after / before), round(before))
        if max(before, after) > 1 and (change.stride != conv.stride or conv.kernel_size != (1, 1)):
            changes.append(change)

    handles = [each.register_forward_hook(note) for each in backbone.modules() if isinstance(each, nn.Conv2d)]
    try:
        _probe(backbone)
    finally:
        for handle in handles:
            handle.remove()
    for change in changes:
        _rewrite(*change)


def _rewrite(conv: nn.Conv2d, stride: tuple[int, int], dilation: int) -> None:
    """Spread the kernel and its padding; what the map loses at its end by an uneven padding is put behind it."""
    assert not isinstance(conv.padding, str)
    first = [dilation * padding for padding in conv.padding]
    reach = [dilation * (size - 1) for size in conv.kernel_size]
    last = [whole - before for whole, before in zip(reach, first, strict=True)]
    conv.stride, conv.dilation = stride, (dilation * conv.dilation[0], dilation * conv.dilation[1])
    if first == last:
        conv.padding = (first[0], first[1])
        return
    conv.padding = (0, 0)
    conv.register_forward_pre_hook(partial(_pad, widths=(first[1], last[1], first[0], last[0])))


def _pad(_conv: nn.Module, inputs: tuple[Tensor], *, widths: tuple[int, int, int, int]) -> Tensor:
    return F.pad(inputs[0], widths)


def _over(stride: tuple[int, ...], factor: float) -> tuple[int, int]:
    return round(stride[0] / factor), round(stride[1] / factor)


def _probe(backbone: Any) -> tuple[Tensor, ...]:
    """Give the maps of a black image."""
    weight = next(backbone.parameters())
    image = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=weight.device, dtype=weight.dtype)
    with evaluating(backbone), torch.no_grad():
        return tuple(backbone(image).feature_maps)
