"""UPerNet over any pyramid encoder.

Source: Xiao et al., Unified Perceptual Parsing for Scene Understanding, arXiv 1807.10221; head, widths and
auxiliary head as in Transformers' `UperNetForSemanticSegmentation`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from hfseg.config import Config
from hfseg.labels import LabelSpace
from hfseg.models.assemble import assemble
from hfseg.models.backbones.build import adopt, build_backbone
from hfseg.models.backbones.plan import plan
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import quiet

AUXILIARY_CHANNELS = 256


class UperNetModelConfig(Config):
    """UPerNet: a pyramid encoder with the UPerNet head."""

    kind: Literal["upernet"] = "upernet"
    """Picks this decoder."""
    backbone: str = "convnextv2-tiny"
    """Encoder: an alias (`convnextv2`, `swin-base`, `resnet50` ...), a Hub id, or a local folder."""
    pretrained: str | None = None
    """Weights of the encoder: Hub id or folder of the same family; unset takes the encoder's own; `none` is random."""
    hidden_size: PositiveInt = 512
    """Width of the head, in channels."""
    auxiliary: bool = True
    """Whether to train an auxiliary head on the third map; its weight is `loss.auxiliary_weight`."""
    auxiliary_channels: PositiveInt | None = None
    """Width of the auxiliary head, in channels; unset is 256."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Drop-path rate of the encoder's last block, rising to it from 0; unset keeps the checkpoint's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Values of the encoder's Transformers config to replace, for instance depths."""

    @model_validator(mode="after")
    def _used(self) -> "UperNetModelConfig":
        if self.auxiliary_channels is not None and not self.auxiliary:
            raise ValueError("`auxiliary_channels` has no effect without the auxiliary head\n\nhint: leave it out")
        return self

    def build(self, labels: LabelSpace) -> Segmenter:
        """Build the model for a label space, in training mode.

        Raises:
            ModelError: the encoder is unknown or no pyramid, or its weights cannot be had or do not fit.
        """
        planned = plan(self.backbone, self.pretrained, overrides=self.overrides, drop_path=self.drop_path)
        backbone, new = build_backbone(planned)
        config = UperNetConfig(
            backbone_config=planned.config,
            hidden_size=self.hidden_size,
            use_auxiliary_head=self.auxiliary,
            auxiliary_channels=self.auxiliary_channels or AUXILIARY_CHANNELS,
            id2label=labels.id2label,
            label2id={name: index for index, name in labels.id2label.items()},
        )
        with quiet():
            hf = UperNetForSemanticSegmentation(config)
        adopt(hf, "backbone", backbone)
        heads = tuple(name for name, _ in hf.named_parameters() if not name.startswith("backbone."))
        new_parameters = (*(f"backbone.{name}" for name in new), *heads)
        return assemble(hf, planned.pixels, labels, new_parameters=new_parameters)
