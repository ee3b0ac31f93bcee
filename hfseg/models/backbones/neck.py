"""A pyramid of an encoder that keeps one stride: plain vision transformers under decoders over four maps.

Source: the simple feature pyramid of Li et al., ViTDet, arXiv 2203.16527; four layers by depth, kept at the encoder's
width, as in the segmentation models of XCiT (El-Nouby et al., arXiv 2106.09681) and BEiT (Bao et al., arXiv
2106.08254). Norms are over channels as in ViTDet, so a batch of one trains.
"""

from collections.abc import Sequence
from math import ceil, log2
from typing import Any, no_type_check

from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoBackbone, AutoConfig, Dinov2Config, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from hfseg.models.backbones.probe import STRIDES

DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1)
"""Depths at which a plain transformer's layers are taken: 4, 6, 8, 12 of 12, as BEiT's published UPerNets do."""
MANY = 6
"""More layers than this are no stages of a pyramid."""


def four_maps(names: Sequence[str], *, first_layer: int = 1) -> list[str]:
    """Choose the maps that a decoder takes: a pyramid's last four, and by depth of a plain transformer's many.

    `names` are all maps that an encoder can give; those before `first_layer` are no layer's.
    """
    depth = len(names) - first_layer
    if depth <= MANY:
        return list(names[-len(STRIDES) :])
    return [names[round(depth * part) - 1 + first_layer] for part in DEPTHS]


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class PyramidConfig(BackboneConfigMixin, PreTrainedConfig):
    """Settings of `PyramidBackbone`: the encoder inside, which gives four maps, and its neck.

    `patch_size` is the pixels on a side of the encoder's tokens; `hidden_size` the channels of the maps, None those of
    the encoder's.
    """

    model_type = "hfseg_pyramid"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    patch_size: int = 16
    hidden_size: int | None = None
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = Dinov2Config(patch_size=16, out_features=["stage4", "stage6", "stage8", "stage12"])
        elif isinstance(self.backbone_config, dict):
            self.backbone_config = CONFIG_MAPPING[self.backbone_config["model_type"]].from_dict(self.backbone_config)
        self.stage_names = [f"stage{number}" for number, _ in enumerate(STRIDES, start=1)]
        out_features = kwargs.pop("out_features", None)
        out_indices = kwargs.pop("out_indices", None)
        unset = out_features is None and out_indices is None
        self.set_output_features_output_indices(
            out_features=self.stage_names if unset else out_features, out_indices=out_indices
        )
        super().__post_init__(**kwargs)

    @property
    def token_stride(self) -> int:
        """The power of two nearest to the patch size, by ratio: 16 for patches of 14 pixels."""
        return int(2 ** round(log2(self.patch_size)))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of a map."""

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalize each place by the mean and deviation of its channels."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resample(width: int, *, stride: int, target: int) -> nn.Sequential:
    """Bring maps of one stride to another: x2 by transposed convolutions, norm and GELU between them, or max pooling.

    Both strides are powers of two. Pooled sizes are rounded up.
    """
    if target > stride:
        return nn.Sequential(nn.MaxPool2d(target // stride, ceil_mode=True))
    layers: list[nn.Module] = []
    for step in range(round(log2(stride / target))):
        layers += [ChannelNorm(width), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(width, width, kernel_size=2, stride=2))
    return nn.Sequential(*layers)


class PyramidNeck(nn.Module):
    """Bring the four maps of one stride to strides 4, 8, 16 and 32."""

    def __init__(self, channels: Sequence[int], *, width: int | None, stride: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Identity() if width in (None, count) else nn.Conv2d(count, width or count, kernel_size=1),
                resample(width or count, stride=stride, target=target),
            )
            for count, target in zip(channels, STRIDES, strict=True)
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _c h w"]]) -> tuple[Tensor, ...]:
        """Give one map per stride, finest first."""
        return tuple(level(each) for level, each in zip(self.levels, maps, strict=True))


class PyramidBackbone(BackboneMixin, PreTrainedModel):
    """An encoder of one stride and the neck that makes a pyramid of its maps; images of any size.

    A map of stride s measures the image divided by s, rounded up. For that the tokens lie at a power of two pixels:
    images are padded by zeros at the right and the bottom to whole tokens, and where patches measure something else
    (14 pixels in DINOv2), scaled so that one patch covers one token: by 14/16.
    """

    config: PyramidConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__(config)
        self.encoder = AutoBackbone.from_config(config.backbone_config)
        self.has_attentions = self.encoder.has_attentions
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.neck = PyramidNeck(self.encoder.channels, width=config.hidden_size, stride=config.token_stride)
        self.num_features = [config.hidden_size or count for count in self.encoder.channels]
        # Not the mixin's `post_init`: it would hook the layers of the encoder, which are hooked, a second time, and
        # every hidden state would be there twice.
        PreTrainedModel.post_init(self)

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Encode normalized images; hidden states and attentions are those of the encoder inside."""
        height, width = pixel_values.shape[-2:]
        encoded = self.encoder.forward_with_filtered_kwargs(
            self.on_tokens(pixel_values), output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        maps = tuple(
            each[..., : ceil(height / stride), : ceil(width / stride)]
            for name, stride, each in zip(self.stage_names, STRIDES, self.neck(encoded.feature_maps), strict=True)
            if name in self.out_features
        )
        output = BackboneOutput(feature_maps=maps, hidden_states=encoded.hidden_states, attentions=encoded.attentions)
        return output.to_tuple() if return_dict is False else output

    def on_tokens(self, pixel_values: Float[Tensor, "b c height width"]) -> Float[Tensor, "b c rows columns"]:
        """Pad to whole tokens of the power-of-two stride, then scale so that each is one patch."""
        stride, patch = self.config.token_stride, self.config.patch_size
        rows, columns = (ceil(length / stride) for length in pixel_values.shape[-2:])
        height, width = pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, columns * stride - width, 0, rows * stride - height))
        if patch == stride:
            return padded
        return F.interpolate(padded, (rows * patch, columns * patch), mode="bilinear", antialias=False)
