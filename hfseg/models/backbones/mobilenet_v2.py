"""MobileNetV2 as a pyramid encoder: the body of Transformers' `MobileNetV2Model`, which has no backbone class there.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381. Blocks and names of
tensors are those of Transformers, so that its checkpoints (`google/mobilenet_v2_*`, `google/deeplabv3_mobilenet_v2_*`;
Apache 2.0) load as they are; the last convolution and the heads, which stand behind the last block, are left out.
"""

from typing import Any, no_type_check

from huggingface_hub.dataclasses import strict
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2Model, MobileNetV2PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

STAGE_BLOCKS = (2, 3, 7, 4)
"""How many of the 16 blocks work at strides 4, 8, 16 and 32."""


@no_type_check  # Transformers checks the fields, and passes more than fields to `__init__`
@strict
class MobileNetV2BackboneConfig(BackboneConfigMixin, MobileNetV2Config):
    """Settings of a MobileNetV2 encoder: those of `MobileNetV2Config`, which maps come out, and the batch norms' pace.

    At an `output_stride` below 32 the last maps keep that stride, so the encoder is no pyramid of strides 4 to 32.
    """

    model_type = "mobilenet_v2_backbone"

    batch_norm_momentum: float = 0.1
    """Weight of the current batch in the running statistics; the default is PyTorch's. Transformers has 0.997, which is
    TensorFlow's decay in the place of PyTorch's momentum, so that evaluation rests on the last training batch alone.
    On the demo data, batches of 2: between 91.7 and 96.3 % mIoU from one validation to the next after step 20; with 0.1
    it rises to 96.6 %, with 0.01 as well, with 0.003 to 96.2 %."""
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = ["stem", *(f"stage{number}" for number, _ in enumerate(STAGE_BLOCKS, start=1))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)


class MobileNetV2Backbone(BackboneMixin, MobileNetV2PreTrainedModel):
    """MobileNetV2 without what follows its last block; the maps are what the last block of each resolution gives.

    Images of any size are taken: a map of stride s is as large as the image divided by s, rounded up.
    """

    config: MobileNetV2BackboneConfig
    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [r"conv_1x1\.", r"classifier\.", r"segmentation_head\."]  # noqa: RUF012

    def __init__(self, config: MobileNetV2BackboneConfig) -> None:
        super().__init__(config)
        body = MobileNetV2Model(config, add_pooling_layer=False)
        self.conv_stem, self.layer = body.conv_stem, body.layer
        self.stage_ends = [sum(STAGE_BLOCKS[:count]) - 1 for count in range(1, len(STAGE_BLOCKS) + 1)]
        last = [self.conv_stem, *(self.layer[index] for index in self.stage_ends)]
        self.num_features = [module.reduce_1x1.convolution.out_channels for module in last]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = config.batch_norm_momentum
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c h w"],
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Give the maps that `config.out_features` names; `hidden_states` are those of the stem and of every stage."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        state = self.conv_stem(pixel_values)
        states = [state]
        for index, block in enumerate(self.layer):
            state = block(state)
            if index in self.stage_ends:
                states.append(state)
        maps = [each for name, each in zip(self.stage_names, states, strict=True) if name in self.out_features]
        output = BackboneOutput(feature_maps=tuple(maps), hidden_states=tuple(states) if wanted else None)
        return output.to_tuple() if return_dict is False else output
