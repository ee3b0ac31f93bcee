"""What every decoder over a pyramid encoder shares: how the encoder is chosen and built, and how it is put in place."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import CONFIG_MAPPING, PreTrainedConfig, ResNetConfig

from hfseg.config import Config
from hfseg.labels import LabelSpace
from hfseg.models.assemble import assemble
from hfseg.models.backbones import neighborhood
from hfseg.models.backbones.build import Built, adopt, build_backbone
from hfseg.models.backbones.dilations import Dilations
from hfseg.models.backbones.dinat import set_attention_impl
from hfseg.models.backbones.plan import plan
from hfseg.models.backbones.weights import take_heads
from hfseg.models.pixels import Pixels
from hfseg.models.segmenter import Segmenter


@dataclass(frozen=True)
class Encoder:
    """A pyramid encoder that has been built, and how it takes pixels."""

    built: Built
    pixels: Pixels
    attention_impl: str | None = None
    """Way of computing neighborhood attention; not part of what is saved."""

    @property
    def config(self) -> Any:
        """The config of the encoder, which the model around it takes."""
        return self.built.config

    def mount(self, hf: Any, labels: LabelSpace) -> Segmenter:
        """Put the weights into `hf.backbone`, which was built from the same config, and finish the model."""
        adopt(hf, "backbone", self.built.module)
        set_attention_impl(hf.backbone, self.attention_impl)
        known = ("backbone.", *take_heads(hf, self.built.heads))
        heads = tuple(name for name, _ in hf.named_parameters() if not name.startswith(known))
        new_parameters = (*(f"backbone.{name}" for name in self.built.new_parameters), *heads)
        return assemble(hf, self.pixels, labels, new_parameters=new_parameters)


class EncoderConfig(Config):
    """The settings of a pyramid encoder, which the decoders over one inherit."""

    backbone: str = "convnextv2-tiny"
    """Encoder: an alias (`dinat`, `convnextv2`, `swin-base` ...), a Hub id, a local folder, or `timm:NAME`."""
    pretrained: str | None = None
    """Weights of the encoder: Hub id, folder or weights file of the same family; unset takes the encoder's own; `none`
    is random."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Drop-path rate of the encoder's last block, rising to it from 0; unset keeps the checkpoint's."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Values of the encoder's Transformers config to replace, for instance depths."""
    dilations: Literal["auto"] | Dilations | None = None
    """Dilations of DiNAT, one list per level, or `auto` to choose them from the training crop; unset keeps those of the
    checkpoint, which are made for images of 224 pixels."""
    position_table: bool | None = None
    """Whether NAT and DiNAT learn a table of relative positions, as all published ones do."""
    attention_impl: str | None = None
    """Way of computing the attention of NAT and DiNAT (`tiled`, `gather`, `triton` ...); unset takes the fastest that
    was measured for the device."""

    def encoder(self, crop: tuple[int, int] | None) -> Encoder:
        """Build the encoder; `crop` is the height and width of the images it will be trained on, where that is known.

        Raises:
            ModelError: the encoder is unknown or no pyramid, its weights cannot be had or do not fit, or it has not
                what a setting changes.
        """
        planned = plan(self.backbone, self.pretrained, overrides=self.overrides, drop_path=self.drop_path)
        neighborhood.configure(planned.config, dilations=self.dilations, position_table=self.position_table, crop=crop)
        neighborhood.check_impl(planned.config, self.attention_impl)
        return Encoder(build_backbone(planned), planned.pixels, self.attention_impl)


def opened_config(written: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    """Make the config of an encoder from what a model's config holds; a ResNet-50, as in UPerNet, from nothing."""
    if written is None:
        return ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    return CONFIG_MAPPING[written["model_type"]].from_dict(written) if isinstance(written, dict) else written
