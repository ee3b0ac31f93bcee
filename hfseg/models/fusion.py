"""Fusion: every map of a pyramid encoder at the finest resolution, side by side, under a few convolutions.

A plain head of our own, for comparing encoders: nothing in it depends on the batch, so a batch of one trains.
Source: concatenated maps after HRNetV2, Wang et al., arXiv 1908.07919; projected to one width first after SegFormer,
Xie et al., arXiv 2105.15203; group norms after Wu and He, arXiv 1803.08494.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

from hfseg.labels import IGNORE_INDEX, LabelSpace
from hfseg.logits import resize_logits
from hfseg.models.encoder import EncoderConfig, opened_config
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import quiet

GROUPS = 32
"""Groups of every group norm, the paper's number; the width of the head is a multiple of it."""


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class FusionConfig(PreTrainedConfig):
    """Settings of `FusionForSemanticSegmentation`; without `backbone_config`, a ResNet-50 as in UPerNet."""

    model_type = "hfseg_fusion"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    hidden_size: int = 256
    num_convs: int = 2
    dropout: float = 0.1
    initializer_range: float = 0.02
    semantic_loss_ignore_index: int = IGNORE_INDEX

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = opened_config(self.backbone_config)
        super().__post_init__(**kwargs)


class FusionHead(nn.Module):
    """Project each map, resize to the first, concatenate, convolve, classify."""

    def __init__(self, config: FusionConfig, channels: Sequence[int]) -> None:
        super().__init__()
        width = config.hidden_size
        self.projections = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        inputs = [width * len(channels), *[width] * (config.num_convs - 1)]
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU())
            for count in inputs
        )
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, maps: Sequence[Float[Tensor, "b _c _h _w"]]) -> Float[Tensor, "b k h w"]:
        """Give logits at the resolution of the first map, which is the finest."""
        size = maps[0].shape[-2:]
        projected = [projection(each) for projection, each in zip(self.projections, maps, strict=True)]
        hidden = torch.cat([F.interpolate(each, size, mode="bilinear", align_corners=False) for each in projected], 1)
        for convolution in self.convolutions:
            hidden = convolution(hidden)
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


class FusionForSemanticSegmentation(PreTrainedModel):
    """A pyramid encoder of any family under a `FusionHead`; logits are a quarter of the image's size."""

    config: FusionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.backbone = AutoBackbone.from_config(config.backbone_config)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.decode_head = FusionHead(config, self.backbone.channels)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"],
        labels: Int[Tensor, "b h2 w2"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Segment normalized images; with `labels`, `loss` is the cross entropy at their size, ignored pixels left out.

        Raises:
            ValueError: labels were given and the model has a single class, whose cross entropy is always 0.
        """
        if labels is not None and self.config.num_labels == 1:
            raise ValueError("the cross entropy of a single class is always 0: expected a model of two or more")
        encoded = self.backbone.forward_with_filtered_kwargs(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        logits = self.decode_head(encoded.feature_maps)
        loss = None
        if labels is not None:
            resized = resize_logits(logits, (labels.shape[1], labels.shape[2]))
            loss = F.cross_entropy(resized, labels.long(), ignore_index=self.config.semantic_loss_ignore_index)
        output = SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return output.to_tuple() if return_dict is False else output


class FusionModelConfig(EncoderConfig):
    """Fusion: a pyramid encoder with the head that concatenates its maps."""

    kind: Literal["fusion"] = "fusion"
    """Picks this decoder."""
    hidden_size: PositiveInt = 256
    """Width of the head, in channels; a multiple of 32, the number of groups of its norms."""
    num_convs: PositiveInt = 2
    """Number of 3 x 3 convolutions over the concatenated maps."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of channels that are dropped before the classifier."""

    @field_validator("hidden_size")
    @classmethod
    def _grouped(cls, value: int) -> int:
        if value % GROUPS:
            near = max(GROUPS, round(value / GROUPS) * GROUPS)
            raise ValueError(f"must be a multiple of {GROUPS}: got {value}\n\nhint: use {near}")
        return value

    def build(self, labels: LabelSpace, *, crop: tuple[int, int] | None = None) -> Segmenter:
        """Build the model for a label space, in training mode; `crop` is the height and width it will be trained on.

        Raises:
            ModelError: the encoder is unknown or no pyramid, or its weights cannot be had or do not fit.
        """
        encoder = self.encoder(crop)
        config = FusionConfig(
            backbone_config=encoder.config,
            hidden_size=self.hidden_size,
            num_convs=self.num_convs,
            dropout=self.dropout,
            id2label=labels.id2label,
            label2id={name: index for index, name in labels.id2label.items()},
        )
        with quiet():
            hf = FusionForSemanticSegmentation(config)
        return encoder.mount(hf, labels)
