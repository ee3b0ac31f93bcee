"""What is particular to one family of encoders: one record each.

A new encoder is one file with its class, one line in `hfseg.models.registration`, its rows in `aliases`, and a record
here if its class or its published weights need one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hfseg.models.backbones import dinat_weights, fastervit_weights, resnet_weights
from hfseg.models.backbones.neck import four_maps

Settings = Mapping[str, Any]
State = Mapping[str, Tensor]


def _nothing(_of: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Traits:
    """How a family of encoders differs from what Transformers promises of a backbone."""

    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Other families whose weights its class takes -> how to rename them: pattern -> replacement."""
    new: str = r"hidden_states_norms\."
    """Pattern of the parameters that no published checkpoint holds."""
    has_drop_path: bool = True
    """Whether its class heeds `drop_path_rate`, where its config has one."""
    forces: Callable[[Settings], dict[str, Any]] = _nothing
    """Settings that follow from all the others, which the config class leaves at odds with them.

    Raises ValueError where the settings make no sense."""
    from_published: Callable[[State], dict[str, Tensor]] | None = None
    """How to rename the weights of its authors' own files; a name that is not known stays as it is."""
    files: str | None = None
    """Where its authors' files are, where no model folder on the Hub holds its weights."""
    settings_in: Callable[[State], dict[str, Any]] = _nothing
    """What the weights in a file of its authors tell of the config; nothing, of any other file."""
    is_known_whole: bool = False
    """Whether every name in its published model folders is known, so that any other is an error."""


def _beit(settings: Settings) -> dict[str, Any]:
    """It has one resolution, and a neck of its own that makes a pyramid of four layers, which must be named."""
    layers = ["stem", *(f"stage{number}" for number in range(1, settings["num_hidden_layers"] + 1))]
    return {"add_fpn": True, "out_features": four_maps(layers)}


def _bit(settings: Settings) -> dict[str, Any]:
    groups = 4 * settings["num_groups"]
    odd = [width for width in settings["hidden_sizes"] if width % groups]
    if odd:
        raise ValueError(f"hidden_sizes must be divisible by {groups} (4 x num_groups): got {odd[0]}")
    return {}


def _hgnet(settings: Settings) -> dict[str, Any]:
    """It declares `hidden_sizes` channels and gives `stage_out_channels`."""
    return {"hidden_sizes": list(settings["stage_out_channels"])}


def _mobilenet(_settings: Settings) -> dict[str, Any]:
    """The dilated output strides of its segmentation models need no other weights."""
    return {"output_stride": 32}


_USUAL = Traits()
_TRAITS: Mapping[str, Traits] = {
    "beit": Traits(forces=_beit, new=r"fpn\.|hidden_states_norms\."),
    "bit": Traits(forces=_bit),
    "dinat": Traits(from_published=dinat_weights.from_published, is_known_whole=True),
    "fastervit": Traits(
        from_published=fastervit_weights.from_published,
        settings_in=fastervit_weights.published_settings,
        files="fastervit_{0..6}_224_1k.pth.tar of huggingface.co/nvidia/FasterViT (non-commercial)",
    ),
    "hgnet_v2": Traits(forces=_hgnet, has_drop_path=False),
    "maskformer-swin": Traits(reads={"swin": {r"^swin\.": "model."}}),
    "mobilenet_v2_backbone": Traits(reads={"mobilenet_v2": {}}, forces=_mobilenet),
    "nat": Traits(from_published=dinat_weights.from_published, is_known_whole=True),
    "resnet": Traits(from_published=resnet_weights.from_published, has_drop_path=False),
}


def traits_of(family: str) -> Traits:
    """What is particular to a family."""
    return _TRAITS.get(family, _USUAL)


def readers_of(family: str) -> tuple[str, ...]:
    """The other families whose class takes the weights of this one."""
    return tuple(reader for reader, traits in _TRAITS.items() if family in traits.reads)
