"""SegFormer: a Mix Transformer encoder with an all-MLP head.

Source: Xie et al., SegFormer, arXiv 2105.15203; the class is Transformers' `SegformerForSemanticSegmentation`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import SegformerForSemanticSegmentation, SegformerModel

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models.assemble import assemble
from hfseg.models.backbones import aliases
from hfseg.models.backbones.build import adopt, build_encoder
from hfseg.models.backbones.plan import plan
from hfseg.models.labelling import write_labels
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import quiet

Rate = Annotated[float, Field(ge=0, lt=1)]


class SegformerModelConfig(Config):
    """SegFormer with one of its own encoders."""

    kind: Literal["segformer"] = "segformer"
    """Picks this decoder."""
    backbone: str = "mit-b0"
    """Encoder: `mit-b0` to `mit-b5`, or a Hub id or local folder of a SegFormer."""
    pretrained: str | None = None
    """Weights of the encoder: a Hub id or folder of a SegFormer; unset takes the encoder's own; `none` is random."""
    drop_path: Rate | None = None
    """Drop-path rate of the encoder's last block, rising to it from 0; unset keeps the checkpoint's."""
    dropout: Rate | None = None
    """Dropout before the classifier; unset keeps the checkpoint's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Values of the model's Transformers config to replace, for instance depths or decoder_hidden_size."""

    def build(self, labels: LabelSpace, *, crop: tuple[int, int] | None = None) -> Segmenter:
        """Build the model for a label space, in training mode.

        Raises:
            ModelError: the encoder is unknown or not SegFormer's, or its weights cannot be had or do not fit.
        """
        overrides = {**self.overrides, **({} if self.dropout is None else {"classifier_dropout_prob": self.dropout})}
        alias = aliases.find(self.backbone)
        if alias and alias.family != aliases.MIT:
            raise _not_ours(self.backbone, alias.family)
        planned = plan(self.backbone, self.pretrained, overrides=overrides, drop_path=self.drop_path)
        if planned.family != aliases.MIT:
            raise _not_ours(self.backbone, planned.family)
        encoder = build_encoder(SegformerModel, planned)
        write_labels(planned.config, labels)
        with quiet():
            hf = SegformerForSemanticSegmentation(planned.config)
        adopt(hf, "segformer", encoder.module)
        heads = tuple(name for name, _ in hf.named_parameters() if not name.startswith("segformer."))
        new_parameters = (*(f"segformer.{name}" for name in encoder.new_parameters), *heads)
        return assemble(hf, planned.pixels, labels, new_parameters=new_parameters)


def _not_ours(backbone: str, family: str) -> ModelError:
    own = ", ".join(name for name, (owner, _, _) in aliases.ALIASES.items() if owner == aliases.MIT)
    return ModelError(
        f"encoder `{backbone}` is of the family `{family}`: SegFormer takes its own encoders only",
        hint=f"use {own}, or --decoder upernet",
    )
