"""The table of encoders: what one of them gives, and how it is written."""

from pathlib import Path

import pytest
from commands import hfseg
from transformers import CONFIG_MAPPING

from hfseg.errors import ModelError
from hfseg.models.backbones.survey import SurveyRow
from hfseg.recipes.backbones import run, to_text

pytestmark = pytest.mark.slow

TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
ONE_STRIDE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 16}


def folder(path: Path, family: str, settings: dict) -> str:
    CONFIG_MAPPING[family](**settings).save_pretrained(path)
    return str(path)


def test_a_pyramid_is_told_with_its_channels(tmp_path):
    name = folder(tmp_path, "convnext", TINY)
    strides = (4.0, 8.0, 16.0, 32.0)
    expected = SurveyRow("convnext", (name,), "pyramid", strides, (8, 16, 24, 32), "", None, (8, 16, 32))
    assert run(name) == [expected]
    assert to_text([expected]).endswith("with --decoder tmanet: model.output_stride 8 or 16 or 32")


def test_the_strides_are_told_that_its_last_map_can_have_with_memory():
    assert {name: run(name)[0].output_strides for name in ("resnet-18", "swin-tiny", "mit-b0")} == {
        "resnet-18": (8, 16, 32), "swin-tiny": (32,), "mit-b0": ()
    }  # fmt: skip


def test_an_encoder_of_one_stride_is_told_with_its_patches(tmp_path):
    (row,) = run(folder(tmp_path, "dinov2", ONE_STRIDE))
    assert (row.status, row.strides, row.note) == ("through the neck", (4, 8, 16, 32), "patches of 16 pixels")
    assert len(row.channels) == 4


def test_an_alias_is_told_in_its_own_size_with_its_weights():
    (row,) = run("mit-b3")
    assert (row.channels, row.checkpoint) == ((64, 128, 320, 512), "nvidia/mit-b3")
    assert row.note == "with --decoder segformer"
    (row,) = run("resnet-18")
    assert (row.channels, row.checkpoint) == ((64, 128, 256, 512), "microsoft/resnet-18")


def test_an_encoder_that_cannot_be_used_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ModelError, match=r"encoder `focalnet` gives maps at strides 8, 16, 32, 32"):
        run("focalnet")
    with pytest.raises(ModelError, match=r"`convnexv2` is not known.*\n\nhint: did you mean `convnextv2"):
        run("convnexv2")
    with pytest.raises(ModelError, match=r"has no backbone class for"):
        run(folder(tmp_path, "vit", {"hidden_size": 16, "num_attention_heads": 2}))


def test_the_table_has_a_line_for_each_and_its_details_below():
    rows = [
        SurveyRow("alpha", ("alpha-1", "alpha-2"), "pyramid", (4.0, 8.0), (16, 32), "", "owner/alpha"),
        SurveyRow("omega", (), "pyramid", (4.0,), (8,), ""),
        SurveyRow("psi", (), "refused", (), (), "it is no pyramid"),
    ]
    assert to_text(rows).splitlines() == [
        "family  status   strides  channels",
        "alpha   pyramid  4, 8     16, 32",
        "    alpha-1, alpha-2",
        "    weights: owner/alpha",
        "omega   pyramid  4        8",
        "    has no short name: give a Hub id or a folder",
        "psi     refused",
        "    it is no pyramid",
    ]


def test_the_command_shows_one_as_a_table():
    said = hfseg("backbones", "swin-tiny").stdout
    assert said.splitlines()[1].split()[:2] == ["swin", "pyramid"]
