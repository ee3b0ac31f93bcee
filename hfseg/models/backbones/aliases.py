"""The encoders that have short names: family, default public checkpoint, and the sizes for random weights.

Each row reads `name: (family, checkpoint, config)`; the checkpoint is None where no model on the Hub can be read as it
is. The config holds what differs from the defaults of the family's config class in Transformers, so that random weights
need no network. The first row of a family is its default size.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfseg.errors import ModelError
from hfseg.models.backbones.fastervit import VARIANTS
from hfseg.models.pixels import HALF, UNIT, Pixels

MIT = "segformer"
"""The family of SegFormer's own encoders, which is not one of Transformers' backbones."""

Row = tuple[str, str | None, Mapping[str, Any]]


def _mit(depths: list[int], width: int) -> dict[str, Any]:
    return {
        "depths": depths,
        "hidden_sizes": [width, 2 * width, 5 * width, 8 * width],
        "decoder_hidden_size": 256 if depths == [2, 2, 2, 2] else 768,
    }


def _conv(depths: list[int], width: int) -> dict[str, Any]:
    return {"depths": depths, "hidden_sizes": [width, 2 * width, 4 * width, 8 * width]}


def _resnet(depths: list[int], layer_type: str = "bottleneck") -> dict[str, Any]:
    width = 256 if layer_type == "bottleneck" else 64
    return {"depths": depths, "hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "layer_type": layer_type}


def _swin(depths: list[int], width: int, **others: Any) -> dict[str, Any]:
    heads = width // 32
    return {"depths": depths, "embed_dim": width, "num_heads": [heads, 2 * heads, 4 * heads, 8 * heads], **others}


def _pvt(depths: list[int], width: int = 64, ratios: tuple[int, ...] = (8, 8, 4, 4), **others: Any) -> dict[str, Any]:
    widths = [width, 2 * width, 5 * width, 8 * width]
    return {"depths": depths, "hidden_sizes": widths, "mlp_ratios": list(ratios), **others}


def _nat(depths: list[int], heads: int, **others: Any) -> dict[str, Any]:
    return {"depths": depths, "embed_dim": 32 * heads, "num_heads": [heads, 2 * heads, 4 * heads, 8 * heads], **others}


def _dinat(depths: list[int], heads: int, **others: Any) -> dict[str, Any]:
    """Dilations are those of the checkpoints, for images of 224 pixels."""
    third = [1, 2] * (depths[2] // 2)
    return _nat(depths, heads, dilations=[[1, 8, 1], [1, 4, 1, 4], third, [1] * depths[3]], **others)


_DEEP = [3, 4, 18, 5]
_NAT_MINI: dict[str, Any] = {"depths": [3, 4, 6, 5], "heads": 2}
_NAT_TINY: dict[str, Any] = {"depths": _DEEP, "heads": 2}
_NAT_SMALL: dict[str, Any] = {"depths": _DEEP, "heads": 3, "mlp_ratio": 2.0}
_SCALED: dict[str, Any] = {"layer_scale_init_value": 1e-5}
_NAT_BASE: dict[str, Any] = {"depths": _DEEP, "heads": 4, "mlp_ratio": 2.0, **_SCALED}
_NAT_LARGE: dict[str, Any] = {"depths": _DEEP, "heads": 6, "mlp_ratio": 2.0}


def _vit(width: int, layers: int, **others: Any) -> dict[str, Any]:
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64, **others}


_DINOV2 = {"image_size": 518, "patch_size": 14}
_DINOV3: dict[str, Any] = {"num_register_tokens": 4}
_BEIT = {"use_relative_position_bias": True, "use_absolute_position_embeddings": False}
_HGNET_B5 = {
    "stem_channels": [3, 32, 64],
    "stage_in_channels": [64, 128, 512, 1024],
    "stage_mid_channels": [64, 128, 256, 512],
    "stage_out_channels": [128, 512, 1024, 2048],
    "stage_num_blocks": [1, 2, 5, 2],
}
_SWIN2_LARGE = {"image_size": 256, "window_size": 16, "pretrained_window_sizes": [12, 12, 12, 6]}
_SWIN2 = {"image_size": 256, "window_size": 8}

ALIASES: Mapping[str, Row] = {
    "mit-b0": (MIT, "nvidia/mit-b0", _mit([2, 2, 2, 2], 32)),
    "mit-b1": (MIT, "nvidia/mit-b1", _mit([2, 2, 2, 2], 64)),
    "mit-b2": (MIT, "nvidia/mit-b2", _mit([3, 4, 6, 3], 64)),
    "mit-b3": (MIT, "nvidia/mit-b3", _mit([3, 4, 18, 3], 64)),
    "mit-b4": (MIT, "nvidia/mit-b4", _mit([3, 8, 27, 3], 64)),
    "mit-b5": (MIT, "nvidia/mit-b5", _mit([3, 6, 40, 3], 64)),
    "convnext-tiny": ("convnext", "facebook/convnext-tiny-224", _conv([3, 3, 9, 3], 96)),
    "convnext-small": ("convnext", "facebook/convnext-small-224", _conv([3, 3, 27, 3], 96)),
    "convnext-base": ("convnext", "facebook/convnext-base-224", _conv([3, 3, 27, 3], 128)),
    "convnext-large": ("convnext", "facebook/convnext-large-224", _conv([3, 3, 27, 3], 192)),
    "convnext-xlarge": ("convnext", "facebook/convnext-xlarge-224-22k", _conv([3, 3, 27, 3], 256)),
    "convnextv2-tiny": ("convnextv2", "facebook/convnextv2-tiny-1k-224", _conv([3, 3, 9, 3], 96)),
    "convnextv2-atto": ("convnextv2", "facebook/convnextv2-atto-1k-224", _conv([2, 2, 6, 2], 40)),
    "convnextv2-femto": ("convnextv2", "facebook/convnextv2-femto-1k-224", _conv([2, 2, 6, 2], 48)),
    "convnextv2-pico": ("convnextv2", "facebook/convnextv2-pico-1k-224", _conv([2, 2, 6, 2], 64)),
    "convnextv2-nano": ("convnextv2", "facebook/convnextv2-nano-1k-224", _conv([2, 2, 8, 2], 80)),
    "convnextv2-base": ("convnextv2", "facebook/convnextv2-base-1k-224", _conv([3, 3, 27, 3], 128)),
    "convnextv2-large": ("convnextv2", "facebook/convnextv2-large-1k-224", _conv([3, 3, 27, 3], 192)),
    "convnextv2-huge": ("convnextv2", "facebook/convnextv2-huge-1k-224", _conv([3, 3, 27, 3], 352)),
    "dinov3-convnext-tiny": (
        "dinov3_convnext", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m", _conv([3, 3, 9, 3], 96)),
    "dinov3-convnext-small": (
        "dinov3_convnext", "facebook/dinov3-convnext-small-pretrain-lvd1689m", _conv([3, 3, 27, 3], 96)),
    "dinov3-convnext-base": (
        "dinov3_convnext", "facebook/dinov3-convnext-base-pretrain-lvd1689m", _conv([3, 3, 27, 3], 128)),
    "dinov3-convnext-large": (
        "dinov3_convnext", "facebook/dinov3-convnext-large-pretrain-lvd1689m", _conv([3, 3, 27, 3], 192)),
    "resnet-50": ("resnet", "microsoft/resnet-50", _resnet([3, 4, 6, 3])),
    "resnet-18": ("resnet", "microsoft/resnet-18", _resnet([2, 2, 2, 2], "basic")),
    "resnet-26": ("resnet", "microsoft/resnet-26", _resnet([2, 2, 2, 2])),
    "resnet-34": ("resnet", "microsoft/resnet-34", _resnet([3, 4, 6, 3], "basic")),
    "resnet-101": ("resnet", "microsoft/resnet-101", _resnet([3, 4, 23, 3])),
    "resnet-152": ("resnet", "microsoft/resnet-152", _resnet([3, 8, 36, 3])),
    "bit-50": ("bit", "google/bit-50", {"depths": [3, 4, 6, 3]}),
    "swin-tiny": ("swin", "microsoft/swin-tiny-patch4-window7-224", _swin([2, 2, 6, 2], 96)),
    "swin-small": ("swin", "microsoft/swin-small-patch4-window7-224", _swin([2, 2, 18, 2], 96)),
    "swin-base": ("swin", "microsoft/swin-base-patch4-window7-224", _swin([2, 2, 18, 2], 128)),
    "swin-large": ("swin", "microsoft/swin-large-patch4-window7-224-in22k", _swin([2, 2, 18, 2], 192)),
    "swinv2-tiny": ("swinv2", "microsoft/swinv2-tiny-patch4-window8-256", _swin([2, 2, 6, 2], 96, **_SWIN2)),
    "swinv2-small": ("swinv2", "microsoft/swinv2-small-patch4-window8-256", _swin([2, 2, 18, 2], 96, **_SWIN2)),
    "swinv2-base": ("swinv2", "microsoft/swinv2-base-patch4-window8-256", _swin([2, 2, 18, 2], 128, **_SWIN2)),
    "swinv2-large": (
        "swinv2", "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft",
        _swin([2, 2, 18, 2], 192, **_SWIN2_LARGE)),
    "maskformer-swin-tiny": (
        "maskformer-swin", "microsoft/swin-tiny-patch4-window7-224", _swin([2, 2, 6, 2], 96)),
    "maskformer-swin-small": (
        "maskformer-swin", "microsoft/swin-small-patch4-window7-224", _swin([2, 2, 18, 2], 96)),
    "maskformer-swin-base": (
        "maskformer-swin", "microsoft/swin-base-patch4-window7-224", _swin([2, 2, 18, 2], 128)),
    "maskformer-swin-large": (
        "maskformer-swin", "microsoft/swin-large-patch4-window7-224-in22k", _swin([2, 2, 18, 2], 192)),
    "pvt-v2-b0": ("pvt_v2", "OpenGVLab/pvt_v2_b0", _pvt([2, 2, 2, 2], 32)),
    "pvt-v2-b1": ("pvt_v2", "OpenGVLab/pvt_v2_b1", _pvt([2, 2, 2, 2])),
    "pvt-v2-b2": ("pvt_v2", "OpenGVLab/pvt_v2_b2", _pvt([3, 4, 6, 3])),
    "pvt-v2-b2-linear": ("pvt_v2", "OpenGVLab/pvt_v2_b2_linear", _pvt([3, 4, 6, 3], linear_attention=True)),
    "pvt-v2-b3": ("pvt_v2", "OpenGVLab/pvt_v2_b3", _pvt([3, 4, 18, 3])),
    "pvt-v2-b4": ("pvt_v2", "OpenGVLab/pvt_v2_b4", _pvt([3, 8, 27, 3])),
    "pvt-v2-b5": ("pvt_v2", "OpenGVLab/pvt_v2_b5", _pvt([3, 6, 40, 3], 64, (4, 4, 4, 4))),
    "beit-base": ("beit", "microsoft/beit-base-patch16-224-pt22k-ft22k", _BEIT),
    "beit-large": ("beit", "microsoft/beit-large-patch16-224-pt22k-ft22k", {
        **_BEIT, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "layer_scale_init_value": 1e-5}),
    "nat-mini": ("nat", "shi-labs/nat-mini-in1k-224", _nat(**_NAT_MINI)),
    "nat-tiny": ("nat", "shi-labs/nat-tiny-in1k-224", _nat(**_NAT_TINY)),
    "nat-small": ("nat", "shi-labs/nat-small-in1k-224", _nat(**_NAT_SMALL, **_SCALED)),
    "nat-base": ("nat", "shi-labs/nat-base-in1k-224", _nat(**_NAT_BASE)),
    "dinat-mini": ("dinat", "shi-labs/dinat-mini-in1k-224", _dinat(**_NAT_MINI)),
    "dinat-tiny": ("dinat", "shi-labs/dinat-tiny-in1k-224", _dinat(**_NAT_TINY)),
    "dinat-small": ("dinat", "shi-labs/dinat-small-in1k-224", _dinat(**_NAT_SMALL)),
    "dinat-base": ("dinat", "shi-labs/dinat-base-in1k-224", _dinat(**_NAT_BASE)),
    "dinat-large": ("dinat", "shi-labs/dinat-large-in22k-224", _dinat(**_NAT_LARGE)),
    "dinov2-small": ("dinov2", "facebook/dinov2-small", _vit(384, 12, **_DINOV2)),
    "dinov2-base": ("dinov2", "facebook/dinov2-base", _vit(768, 12, **_DINOV2)),
    "dinov2-large": ("dinov2", "facebook/dinov2-large", _vit(1024, 24, **_DINOV2)),
    "dinov2-giant": ("dinov2", "facebook/dinov2-giant", _vit(1536, 40, use_swiglu_ffn=True, **_DINOV2)),
    "dinov2-with-registers-small": (
        "dinov2_with_registers", "facebook/dinov2-with-registers-small", _vit(384, 12, **_DINOV2)),
    "dinov2-with-registers-base": (
        "dinov2_with_registers", "facebook/dinov2-with-registers-base", _vit(768, 12, **_DINOV2)),
    "dinov2-with-registers-large": (
        "dinov2_with_registers", "facebook/dinov2-with-registers-large", _vit(1024, 24, **_DINOV2)),
    "dinov2-with-registers-giant": (
        "dinov2_with_registers", "facebook/dinov2-with-registers-giant",
        _vit(1536, 40, use_swiglu_ffn=True, **_DINOV2)),
    "dinov3-vit-small": (
        "dinov3_vit", "facebook/dinov3-vits16-pretrain-lvd1689m",
        _vit(384, 12, intermediate_size=1536, **_DINOV3)),
    "dinov3-vit-base": (
        "dinov3_vit", "facebook/dinov3-vitb16-pretrain-lvd1689m",
        _vit(768, 12, intermediate_size=3072, **_DINOV3)),
    "dinov3-vit-large": (
        "dinov3_vit", "facebook/dinov3-vitl16-pretrain-lvd1689m",
        _vit(1024, 24, intermediate_size=4096, **_DINOV3)),
    "vitdet": ("vitdet", None, {}),
    **{name: ("fastervit", None, settings) for name, settings in VARIANTS.items()},
    "mobilenet-v2": ("mobilenet_v2_backbone", "google/mobilenet_v2_1.0_224", {}),
    "hgnet-v2": ("hgnet_v2", "ustc-community/hgnet-v2", _HGNET_B5),
}  # fmt: skip

PIXELS: Mapping[str, Pixels] = {"beit": HALF, "bit": HALF, "hgnet_v2": UNIT}
"""How the families' published weights take pixels, where it is not ImageNet's mean and deviation."""

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(family for family, _, _ in ALIASES.values()))


@dataclass(frozen=True)
class Alias:
    """A short name of an encoder."""

    name: str
    family: str
    checkpoint: str | None
    config: Mapping[str, Any]
    is_sized: bool
    """Whether the user named a size, not the family alone."""


def find(name: str) -> Alias | None:
    """Look up an alias or a family's name; hyphens, underscores and case do not matter."""
    squeezed = _squeeze(name)
    for alias, (family, checkpoint, config) in ALIASES.items():
        if squeezed == _squeeze(alias) or squeezed == _squeeze(family):
            return Alias(alias, family, checkpoint, config, is_sized=squeezed != _squeeze(family))
    return None


def pixels_of(family: str) -> Pixels:
    """How the family's published weights take pixels."""
    return PIXELS.get(family, Pixels())


def unknown(name: str) -> ModelError:
    """Say that no encoder has this name, with the closest ones."""
    names = {_squeeze(known): known for known in (*ALIASES, *FAMILIES)}
    close = [names[match] for match in difflib.get_close_matches(_squeeze(name), list(names), n=3, cutoff=0.5)]
    known = f"the families are {', '.join(FAMILIES)}"
    guess = f"did you mean {' or '.join(f'`{c}`' for c in close)}? " if close else ""
    return ModelError(
        f"encoder `{name}` is not known: expected an alias, a Hub id of the form owner/name, or a local folder",
        hint=f"{guess}{known}",
    )


def _squeeze(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
