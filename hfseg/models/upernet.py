"""UPerNet over any pyramid encoder.

Source: Xiao et al., Unified Perceptual Parsing for Scene Understanding, arXiv 1807.10221; head, widths and
auxiliary head as in Transformers' `UperNetForSemanticSegmentation`.
"""

from typing import Literal

from pydantic import PositiveInt, model_validator
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from hfseg.labels import LabelSpace
from hfseg.models.encoder import EncoderConfig
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import quiet

AUXILIARY_CHANNELS = 256


class UperNetModelConfig(EncoderConfig):
    """UPerNet: a pyramid encoder with the UPerNet head."""

    kind: Literal["upernet"] = "upernet"
    """Picks this decoder."""
    hidden_size: PositiveInt = 512
    """Width of the head, in channels."""
    auxiliary: bool = True
    """Whether to train an auxiliary head on the third map; its weight is `loss.auxiliary_weight`."""
    auxiliary_channels: PositiveInt | None = None
    """Width of the auxiliary head, in channels; unset is 256."""

    @model_validator(mode="after")
    def _used(self) -> "UperNetModelConfig":
        if self.auxiliary_channels is not None and not self.auxiliary:
            raise ValueError("`auxiliary_channels` has no effect without the auxiliary head\n\nhint: leave it out")
        return self

    def build(self, labels: LabelSpace, *, crop: tuple[int, int] | None = None) -> Segmenter:
        """Build the model for a label space, in training mode; `crop` is the height and width it will be trained on.

        Raises:
            ModelError: the encoder is unknown or no pyramid, or its weights cannot be had or do not fit.
        """
        encoder = self.encoder(crop)
        config = UperNetConfig(
            backbone_config=encoder.config,
            hidden_size=self.hidden_size,
            use_auxiliary_head=self.auxiliary,
            auxiliary_channels=self.auxiliary_channels or AUXILIARY_CHANNELS,
            id2label=labels.id2label,
            label2id={name: index for index, name in labels.id2label.items()},
        )
        with quiet():
            hf = UperNetForSemanticSegmentation(config)
        return encoder.mount(hf, labels)
