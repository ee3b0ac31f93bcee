"""The survey of encoders: the truth of this installation."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from commands import hfseg
from test_models_backbones import ONE_STRIDE, TINY
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_BACKBONE_MAPPING
from transformers.modeling_outputs import BackboneOutput

from hfseg.errors import ModelError
from hfseg.models import ALIASES, FAMILIES
from hfseg.models.backbones.probe import Kind, inspect, judge
from hfseg.models.backbones.survey import SurveyRow, look_at

pytestmark = pytest.mark.slow


class Encoder(nn.Module):
    """An encoder that gives maps of chosen strides and channels."""

    def __init__(self, strides: list[int], channels: list[int], declared: list[int], *, channels_last: bool = False):
        super().__init__()
        self.strides, self.given, self.channels, self.channels_last = strides, channels, declared, channels_last
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> BackboneOutput:
        sizes = [(count, *(side // stride for side in image.shape[2:]))
                 for stride, count in zip(self.strides, self.given, strict=True)]  # fmt: skip
        maps = [torch.zeros(1, *size) for size in sizes]
        return BackboneOutput(feature_maps=tuple(m.permute(0, 2, 3, 1) if self.channels_last else m for m in maps))


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (Encoder([4, 8, 16, 32], [8, 16, 24, 32], [8, 16, 24, 32]), Kind.PYRAMID),
        (Encoder([16] * 4, [8] * 4, [8] * 4), Kind.ONE_STRIDE),
        (Encoder([14] * 4, [8] * 4, [8] * 4), Kind.ONE_STRIDE),
        (Encoder([4, 8, 16, 32], [8, 16, 24, 32], [8, 16, 24, 32], channels_last=True),
         r"gives maps of shape \(1, 16, 24, 8\), which is b h w c: expected b c h w"),
        (Encoder([4, 8, 16, 32], [8, 16, 24, 32], [8, 8, 8, 8]),
         r"gives maps of \[8, 16, 24, 32\] channels and declares \[8, 8, 8, 8\]"),
        (Encoder([2, 4, 8, 16], [8] * 4, [8] * 4), r"gives maps at strides 2, 4, 8, 16: expected 4, 8, 16, 32"),
        (Encoder([16] * 3, [8] * 3, [8] * 3), r"gives maps at strides 16, 16, 16: expected 4, 8, 16, 32"),
        (Encoder([8, 8, 16, 16], [8] * 4, [9] * 4), r"strides 8, 8, 16, 16, of \[8, 8, 8, 8\] channels where it declares"),
    ],
)  # fmt: skip
def test_an_encoder_is_judged_by_what_it_gives(encoder: Encoder, expected: Kind | str):
    shape = inspect(encoder, "it")
    if isinstance(expected, Kind):
        assert judge(shape, "it") is expected
    else:
        with pytest.raises(ModelError, match=f"encoder `it` {expected}|{expected}"):
            judge(shape, "it")


def test_one_encoder_can_be_looked_at_by_any_name(tmp_path: Path):
    assert look_at("ConvNeXt-Tiny") == SurveyRow(
        "convnext",
        ("convnext-tiny",),
        "pyramid",
        (4.0, 8.0, 16.0, 32.0),
        (96, 192, 384, 768),
        "",
        "facebook/convnext-tiny-224",
        (8, 16, 32),
    )
    CONFIG_MAPPING["dinov2"](**{**ONE_STRIDE["dinov2"], "patch_size": 8}).save_pretrained(tmp_path)
    assert look_at(str(tmp_path)) == SurveyRow(
        "dinov2", (), "through the neck", (4.0, 8.0, 16.0, 32.0), (16,) * 4, "patches of 8 pixels", None, (32,)
    )
    with pytest.raises(ModelError, match="encoder `convnet` is not known"):
        look_at("convnet")


@pytest.mark.parametrize("name", ["dinat-mini", "mit-b0", "mobilenet-v2"])
def test_encoders_of_our_own_and_segformers_are_pyramids(name: str):
    row = look_at(name)
    assert (row.status, row.strides) == ("pyramid", (4, 8, 16, 32))
    assert (row.note == "with --decoder segformer") == (name == "mit-b0")


@pytest.mark.slow
def test_the_survey_holds_every_family_of_this_installation_once():
    """As the command lists them, which takes half a minute: every class of encoder is built."""
    said = json.loads(hfseg("backbones", "--json").stdout)
    rows = [SurveyRow(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}) for row in said]
    assert max(Counter(row.family for row in rows).values()) == 1
    known = {row.family: row for row in rows}
    theirs = {config_class.model_type for config_class in MODEL_FOR_BACKBONE_MAPPING}
    assert theirs - {"timm_backbone", "hfseg_timm", "hfseg_pyramid"} | set(FAMILIES) == known.keys() - {"timm"}
    assert {alias for row in rows for alias in row.aliases} == {*ALIASES, "timm:NAME"}
    expected = {
        "focalnet": "refused", "hiera": "refused", "lw_detr_vit": "refused", "rf_detr_dinov2": "refused",
        "uvdoc_backbone": "refused", "textnet": "pyramid", "rt_detr_resnet": "pyramid", "pixio": "through the neck",
        "sapiens2": "through the neck", **dict.fromkeys(ONE_STRIDE, "through the neck"),
        **dict.fromkeys(TINY.keys() - ONE_STRIDE.keys(), "pyramid"),
    }  # fmt: skip
    assert {family: known[family].status for family in expected} == expected
    assert not {family for family, _, _ in ALIASES.values()} & {row.family for row in rows if row.status == "refused"}
    assert all(row.note for row in rows if row.status == "refused")
    assert all(row.strides == (4, 8, 16, 32) and len(row.channels) == 4 for row in rows if row.status != "refused")
