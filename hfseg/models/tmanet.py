"""TMANet: an encoder, an attention block through which a frame reads those before it, and a classifier.

Source: Wang et al., Temporal Memory Attention for Video Semantic Segmentation, arXiv 2102.08643; head, widths, dropout
and auxiliary head as in wanghao9610/TMANet@1fc4784, any block of `hfseg.models.attention` in the place of its own.

A clip goes through the encoder as one batch of all its frames. So the running statistics of its batch norms move once a
step, over b (t + 1) images, where TMANet's move t + 1 times, over b images each: what is normalized in training comes
closer to what evaluation normalizes by, and the encoder runs once. Gradients flow through every frame, as in TMANet.
"""

from typing import Annotated, Any, Final, Literal, no_type_check

import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_outputs import SemanticSegmenterOutput

from hfseg.errors import ModelError
from hfseg.labels import IGNORE_INDEX, LabelSpace
from hfseg.logits import resize_logits
from hfseg.models.attention import AttentionConfig, Features, NonLocalConfig
from hfseg.models.attention.layers import conv_norm
from hfseg.models.dilation import DILATABLE, build_dilated
from hfseg.models.encoder import EncoderConfig, opened_config
from hfseg.models.segmenter import OWN_STRIDE, Segmenter
from hfseg.models.sources import quiet

AUXILIARY_CHANNELS = 256
OUTPUT_STRIDE: Final = 8
"""What TMANet's encoder is dilated to."""
ATTENTION: TypeAdapter[Any] = TypeAdapter(AttentionConfig)


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class TmanetConfig(PreTrainedConfig):
    """Settings of `TmanetForSemanticSegmentation`; without `backbone_config`, a ResNet-50.

    Places of the last map lie at most `output_stride` pixels apart; None is 8 where an encoder can be dilated, else 32.
    `attention` holds the block's settings with its `kind`; None is TMANet's own. `memory_frames` is how many frames
    before the current one the model was made to read, `memory_step` how many frames lie from each of them to the next;
    it reads any number, at any distance.
    """

    model_type = "hfseg_tmanet"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    output_stride: Literal[8, 16, 32] | None = None
    attention: dict[str, Any] | None = None
    memory_frames: int = 4
    memory_step: int = 1
    use_auxiliary_head: bool = True
    auxiliary_channels: int = AUXILIARY_CHANNELS
    auxiliary_loss_weight: float = 0.4
    dropout: float = 0.1
    initializer_range: float = 0.01
    semantic_loss_ignore_index: int = IGNORE_INDEX

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = encoder = opened_config(self.backbone_config)
        self.output_stride = self.output_stride or (OUTPUT_STRIDE if encoder.model_type in DILATABLE else OWN_STRIDE)
        self.attention = ATTENTION.validate_python(self.attention or NonLocalConfig()).model_dump(mode="json")
        super().__post_init__(**kwargs)


class MemoryHead(nn.Module):
    """Read the frames in memory and classify."""

    def __init__(self, config: TmanetConfig, channels: list[int]) -> None:
        super().__init__()
        self.block = ATTENTION.validate_python(config.attention).build(*channels[:-3:-1])
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(self.block.channels, config.num_labels, 1)

    def forward(self, query: Features, memory: Features | None) -> Float[Tensor, "b k h w"]:
        """Give logits at the resolution of the last stage's map."""
        return self.classify(self.block(query, memory))

    def classify(self, read: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Give the logits of what the block gave."""
        logits: Tensor = self.classifier(self.dropout(read))
        return logits


class AuxiliaryHead(nn.Module):
    """Classify the map of the stage before the last."""

    def __init__(self, config: TmanetConfig, channels: list[int]) -> None:
        super().__init__()
        if len(channels) == 1:
            raise ModelError("the auxiliary head reads the second last map: got one", hint="use_auxiliary_head=False")
        self.convolution = conv_norm(channels[-2], config.auxiliary_channels, size=3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.auxiliary_channels, config.num_labels, 1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Give logits at the map's resolution."""
        logits: Tensor = self.classifier(self.dropout(self.convolution(maps)))
        return logits


class TmanetForSemanticSegmentation(PreTrainedModel):
    """An encoder of any family under a `MemoryHead`: segments images, or the last frame of clips.

    Logits are at `output_stride`. Layers of the heads start as PyTorch's do, gates and norms of blocks as the block
    says, classifiers normal with a deviation of `initializer_range`.
    """

    config: TmanetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")

    def __init__(self, config: TmanetConfig) -> None:
        super().__init__(config)
        assert config.output_stride is not None
        self.backbone = build_dilated(config.backbone_config, config.output_stride)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.decode_head = MemoryHead(config, self.backbone.channels)
        self.auxiliary_head = AuxiliaryHead(config, self.backbone.channels) if config.use_auxiliary_head else None
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b *t c h w"],
        labels: Int[Tensor, "b h2 w2"] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Segment normalized images "b c h w", or the last frames of clips "b t c h w", the oldest frame first.

        With `labels`, those of the last frames, `loss` is the cross entropy at their size, ignored pixels left out; in
        training with that of the auxiliary head. Hidden states and attentions are those of all frames, as one batch.

        Raises:
            ValueError: labels were given and the model has a single class, whose cross entropy is always 0; or there
                are more frames than the attention block has slots.
        """
        if labels is not None and self.config.num_labels == 1:
            raise ValueError("the cross entropy of a single class is always 0: expected a model of two or more")
        clips = pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]
        clips = clips if self.decode_head.block.reads_memory else clips[:, -1:]
        encoded = self.backbone.forward_with_filtered_kwargs(
            clips.flatten(0, 1), output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        maps = [each.unflatten(0, clips.shape[:2]) for each in encoded.feature_maps[-2:]]
        low, high = maps[0], maps[-1]  # one and the same of an encoder of one map, over which nothing reads `low`
        logits = self.decode_head(Features(high[:, -1], low[:, -1]), Features(high[:, :-1], low[:, :-1]))
        auxiliary = None
        if self.auxiliary_head is not None and torch.is_grad_enabled():  # nobody but a loss asks for it
            auxiliary = self.auxiliary_head(low[:, -1])
        loss = None if labels is None else self._loss(logits, auxiliary if self.training else None, labels)
        output = SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def encode(self, pixel_values: Float[Tensor, "b c h w"]) -> Features:
        """Give the maps of a normalized frame that the attention block reads, as a stream needs them."""
        maps = self.backbone(pixel_values).feature_maps[-2:]
        return Features(maps[-1], maps[0])

    def _loss(self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor) -> Tensor:
        size, ignored = (labels.shape[1], labels.shape[2]), self.config.semantic_loss_ignore_index
        loss = F.cross_entropy(resize_logits(logits, size), labels.long(), ignore_index=ignored)
        if auxiliary is None:
            return loss
        other = F.cross_entropy(resize_logits(auxiliary, size), labels.long(), ignore_index=ignored)
        return loss + self.config.auxiliary_loss_weight * other

    def initialize_weights(self) -> None:
        """Start all layers, then what starts otherwise in the block; Transformers' guard keeps what was loaded."""
        super().initialize_weights()
        with guard_torch_init_functions():
            self.decode_head.block.reset_parameters()

    def _init_weights(self, module: nn.Module) -> None:
        """Start a layer of the heads."""
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
        for head in (self.decode_head, self.auxiliary_head):
            if head is not None and module is head.classifier:
                assert head.classifier.bias is not None
                nn.init.normal_(head.classifier.weight, std=self.config.initializer_range)
                nn.init.zeros_(head.classifier.bias)


class TmanetModelConfig(EncoderConfig):
    """TMANet: a pyramid encoder and an attention block through which a frame reads those before it."""

    kind: Literal["tmanet"] = "tmanet"
    """Picks this decoder."""
    attention: AttentionConfig = NonLocalConfig()
    """How the current frame reads memory; `kind` picks the block, and widths are among its settings."""
    memory_frames: NonNegativeInt = 4
    """Frames before the current one that are read; with 0 the frame reads itself."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels between neighbours on the encoder's last map; unset is 8 where its convolutions can be dilated, else its
    own, 32."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of channels that are dropped before the classifiers."""
    auxiliary: bool = True
    """Whether to train an auxiliary head on the current frame's third map; its weight is `loss.auxiliary_weight`."""
    auxiliary_channels: PositiveInt | None = None
    """Width of the auxiliary head, in channels; unset is 256."""

    @model_validator(mode="after")
    def _used(self) -> "TmanetModelConfig":
        if self.auxiliary_channels is not None and not self.auxiliary:
            raise ValueError("`auxiliary_channels` has no effect without the auxiliary head\n\nhint: leave it out")
        block, frames = self.attention, self.memory_frames
        if isinstance(block, NonLocalConfig) and block.slots not in (None, frames + block.include_current):
            beside = ", the current one beside" if block.include_current else ""
            raise ValueError(
                f"`attention.slots` are the frames read: got {block.slots} slots and {frames} memory_frames{beside}"
                f"\n\nhint: set it to {frames + block.include_current}, or leave it out"
            )
        return self

    def build(self, labels: LabelSpace, *, crop: tuple[int, int] | None = None) -> Segmenter:
        """Build the model for a label space, in training mode; `crop` is the height and width it will be trained on.

        Raises:
            ModelError: the encoder is unknown, no pyramid, or cannot be dilated, or its weights cannot be had or do not
                fit.
        """
        encoder = self.encoder(crop)
        with quiet():
            hf = TmanetForSemanticSegmentation(self.described(encoder.config, labels))
        return encoder.mount(hf, labels)

    def described(self, backbone_config: Any, labels: LabelSpace) -> TmanetConfig:
        """Describe the model as Transformers does."""
        return TmanetConfig(
            backbone_config=backbone_config,
            output_stride=self.output_stride,
            attention=self.attention.model_dump(mode="json"),
            memory_frames=self.memory_frames,
            use_auxiliary_head=self.auxiliary,
            auxiliary_channels=self.auxiliary_channels or AUXILIARY_CHANNELS,
            dropout=self.dropout,
            id2label=labels.id2label,
            label2id={name: index for index, name in labels.id2label.items()},
        )
