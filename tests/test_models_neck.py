"""The neck: pyramids of encoders that keep one stride, and how such models are built, frozen and saved."""

import subprocess
import sys
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_freeze import changed, snapshot, train
from test_models_backbones import LABELS, ONE_STRIDE, published_folder, tiny
from torch import nn
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, Dinov2Config, Dinov2Model, UperNetForSemanticSegmentation

from hfseg.errors import ModelError
from hfseg.models import anatomy, freeze, parameter_table, save_model, unfreeze
from hfseg.models.backbones.neck import PyramidBackbone, PyramidConfig, four_maps, resample
from hfseg.models.backbones.probe import STRIDES
from hfseg.models.segmenter import evaluating
from hfseg.models.sources import quiet

pytestmark = pytest.mark.slow

SIZES = [(64, 96), (65, 97), (50, 131), (224, 17)]
OTHERS: dict[str, dict[str, Any]] = {
    "beit": {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
             "add_fpn": False},
    "pixio": {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2},
    "sapiens2": {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
                 "intermediate_size": 32},
    "tipsv2_vision_model": {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2},
}  # fmt: skip
"""Families of one stride that have no alias, or whose neck is their own."""


def pyramid(family: str, settings: dict[str, Any], **others: Any) -> PyramidBackbone:
    config = CONFIG_MAPPING[family](**settings)
    if family != "beit":
        config.out_features = four_maps(config.stage_names)
    else:
        config = CONFIG_MAPPING[family](**settings, out_features=["stage1", "stage2", "stage3", "stage4"])
    with quiet():
        return PyramidBackbone(PyramidConfig(backbone_config=config, patch_size=config.patch_size, **others)).eval()


@pytest.mark.parametrize("family", sorted(ONE_STRIDE | OTHERS))
def test_maps_lie_at_strides_4_8_16_32_whatever_the_size_of_the_image(family: str):
    backbone = pyramid(family, (ONE_STRIDE | OTHERS)[family])
    for height, width in SIZES:
        with torch.no_grad():
            maps = backbone(torch.rand(2, 3, height, width)).feature_maps
        expected = [(2, 16, ceil(height / stride), ceil(width / stride)) for stride in STRIDES]
        assert [tuple(each.shape) for each in maps] == expected


@pytest.mark.parametrize("patch", [4, 8, 14, 16, 32])
def test_tokens_lie_at_the_power_of_two_nearest_to_the_patch(patch: int):
    backbone = pyramid("dinov2", {**ONE_STRIDE["dinov2"], "patch_size": patch})
    stride = {14: 16}.get(patch, patch)
    assert backbone.on_tokens(torch.zeros(1, 3, 90, 64)).shape[2:] == (ceil(90 / stride) * patch, 64 // stride * patch)
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 90, 64)).feature_maps
    assert [tuple(each.shape[2:]) for each in maps] == [(ceil(90 / each), 64 // each) for each in STRIDES]


def test_patches_of_14_pixels_see_the_image_scaled_by_14_to_16():
    backbone = pyramid("dinov2", {**ONE_STRIDE["dinov2"], "patch_size": 14})
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(backbone.on_tokens(image), F.interpolate(image, (56, 84), mode="bilinear"))
    padded = F.pad(image[..., :60, :90], (0, 6, 0, 4))
    assert torch.equal(backbone.on_tokens(image[..., :60, :90]), F.interpolate(padded, (56, 84), mode="bilinear"))


def test_maps_are_those_of_the_layers_at_a_third_a_half_two_thirds_and_the_end():
    settings = {**ONE_STRIDE["dinov2"], "num_hidden_layers": 12, "patch_size": 16}
    backbone = pyramid("dinov2", settings)
    assert backbone.encoder.out_features == ["stage4", "stage6", "stage8", "stage12"]
    reference = Dinov2Model(Dinov2Config(**settings)).eval()
    reference.load_state_dict(backbone.encoder.state_dict())
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        states = reference(image, output_hidden_states=True).hidden_states
        rows = [reference.layernorm(states[layer])[:, 1:].transpose(1, 2) for layer in (4, 6, 8, 12)]
        expected = backbone.neck([each.reshape(2, 16, 4, 6) for each in rows])
        maps = backbone(image).feature_maps
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(maps, expected, strict=True))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, [1, 2, 3, 4]), (6, [3, 4, 5, 6]), (12, [4, 6, 8, 12]), (24, [8, 12, 16, 24]), (40, [13, 20, 27, 40])],
)
def test_the_layers_of_deep_encoders_are_taken_by_depth(count: int, expected: list[int]):
    names = ["stem", *(str(number) for number in range(1, count + 1))]
    assert four_maps(names) == [str(number) for number in expected]
    assert four_maps(names[1:], first_layer=0) == [str(number) for number in expected]


def test_maps_are_brought_up_by_transposed_convolutions_and_down_by_pooling():
    layers = {target: [type(layer).__name__ for layer in resample(8, stride=16, target=target)] for target in STRIDES}
    assert layers == {
        4: ["ConvTranspose2d", "ChannelNorm", "GELU", "ConvTranspose2d"],
        8: ["ConvTranspose2d"],
        16: [],
        32: ["MaxPool2d"],
    }
    norm = resample(8, stride=16, target=4)[1]
    image = torch.rand(2, 8, 3, 5) + 1
    with torch.no_grad():
        assert torch.allclose(norm(image).mean(1), torch.zeros(2, 3, 5), atol=1e-5)


def test_the_width_of_the_maps_can_be_chosen():
    backbone = pyramid("dinov2", ONE_STRIDE["dinov2"], hidden_size=8)
    assert backbone.channels == [8, 8, 8, 8]
    assert [each.shape[1] for each in backbone(torch.rand(1, 3, 64, 64)).feature_maps] == [8, 8, 8, 8]


def test_some_of_the_maps_can_be_asked_for():
    backbone = pyramid("dinov2", ONE_STRIDE["dinov2"], out_features=["stage2", "stage4"])
    maps = backbone(torch.rand(1, 3, 64, 64), return_dict=False)[0]
    assert [each.shape[-1] for each in maps] == [8, 2]
    assert backbone.channels == [16, 16]


def test_hidden_states_and_attentions_are_those_of_the_encoder():
    backbone = pyramid("dinov2", ONE_STRIDE["dinov2"])
    backbone.set_attn_implementation("eager")
    output = backbone(torch.rand(1, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 5
    assert [tuple(each.shape) for each in output.attentions] == [(1, 2, 17, 17)] * 4


@pytest.mark.parametrize("family", sorted(ONE_STRIDE))
def test_only_a_mask_token_of_the_encoder_is_not_trained(family: str):
    model = tiny(family).build(LABELS)
    unused = {name for name, p in model.hf.named_parameters() if not p.requires_grad}
    assert unused <= {"backbone.encoder.embeddings.mask_token"}


@pytest.mark.parametrize("family", sorted(ONE_STRIDE))
def test_published_weights_go_into_the_encoder_and_the_neck_is_new(family: str, tmp_path: Path):
    published = published_folder(family, tmp_path).state_dict()
    stored = {name.removeprefix(f"{family}."): value for name, value in published.items()}
    model = tiny(family, pretrained=str(tmp_path), overrides={}).build(LABELS)
    encoder = model.hf.backbone.encoder.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in encoder.items())
    new = {name for name in model.new_parameters if name.startswith("backbone.")}
    assert new == {name for name, _ in model.hf.named_parameters() if name.startswith("backbone.neck.")}


def test_freezing_the_backbone_leaves_the_new_neck_free():
    model = tiny("dinov2").build(LABELS)
    freeze(model, ["backbone"])
    before = snapshot(model)
    train(model)
    moved = changed(model, before)
    assert not {name for name in moved if name.startswith("backbone.encoder.")}
    assert {name for name, _ in model.hf.backbone.neck.named_parameters(prefix="backbone.neck")} <= moved


def test_freezing_the_head_takes_the_neck_with_it():
    model = tiny("dinov2").build(LABELS)
    assert anatomy.encoder_name(model.hf) == "backbone.encoder"
    assert anatomy.head_names(model.hf) == ("backbone.neck", "decode_head", "auxiliary_head")
    freeze(model, ["head"])
    trained = {name.rpartition(".layer.")[0] or name for name, p in model.hf.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("backbone.encoder.") for name in trained)


def test_stages_are_the_blocks_of_the_encoder_and_the_stem_its_embeddings():
    model = tiny("dinov2").build(LABELS)
    freeze(model, ["backbone.stages.0-1"])
    assert anatomy.stem(model.hf) == ("backbone.encoder.embeddings",)
    table = {str(row["module"]): row for row in parameter_table(model)}
    frozen = [name for name, row in table.items() if row["trainable"] == 0]
    assert frozen == ["backbone.encoder.embeddings", *(f"backbone.encoder.encoder.layer.{index}" for index in (0, 1))]
    unfreeze(model)
    freeze(model, ["all-but:classifier"])
    assert {name for name, p in model.hf.named_parameters() if p.requires_grad} == {
        f"{head}.classifier.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")
    }


def test_the_table_of_a_model_with_a_neck_holds_every_parameter_once():
    model = tiny("dinov3_vit").build(LABELS)
    freeze(model, ["backbone"])
    table = {str(row["module"]): row for row in parameter_table(model)}
    assert sum(int(row["total"]) for row in table.values()) == sum(p.numel() for p in model.hf.parameters())
    neck = sum(p.numel() for p in model.hf.backbone.neck.parameters())
    assert table["backbone.neck"] == {"module": "backbone.neck", "total": neck, "trainable": neck}


def test_recomputing_reaches_the_encoder_inside():
    model = tiny("dinov2").build(LABELS)
    model.enable_gradient_checkpointing()
    blocks = list(model.hf.backbone.encoder.encoder.layer)
    assert all(block.gradient_checkpointing for block in blocks)
    runs: list[int] = []
    blocks[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    model(torch.rand(2, 3, 64, 64)).logits.square().mean().backward()
    assert len(runs) == 2


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_encoders_without_an_alias_come_with_a_neck_from_their_folder(family: str, tmp_path: Path):
    CONFIG_MAPPING[family](**{**OTHERS[family], **({"add_fpn": False} if family == "beit" else {})}).save_pretrained(
        tmp_path
    )
    overrides = {"add_fpn": False} if family == "beit" else {}
    model = tiny("dinov2", backbone=str(tmp_path), overrides=overrides).build(LABELS)
    assert isinstance(model.hf.backbone, PyramidBackbone)
    model.eval()
    save_model(model, LABELS, tmp_path / "model")
    with quiet():
        again = UperNetForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.hf.state_dict().items())


@pytest.mark.slow
def test_a_saved_model_opens_in_plain_transformers_after_importing_hfseg(tmp_path: Path):
    model = tiny("dinov2").build(LABELS)
    save_model(model, LABELS, tmp_path)
    image = torch.linspace(0, 1, 3 * 64 * 80).reshape(1, 3, 64, 80)
    with evaluating(model), torch.no_grad():
        expected = model.hf(image).logits
    code = (
        "import hfseg, sys, torch\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        "model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1]).eval()\n"
        "image = torch.linspace(0, 1, 3 * 64 * 80).reshape(1, 3, 64, 80)\n"
        "torch.save(model(image).logits.detach(), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "logits.pt")], check=True)
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), expected, atol=1e-4)


def test_a_batch_of_one_trains_through_the_neck():
    backbone = pyramid("dinov2", ONE_STRIDE["dinov2"]).train()
    assert not [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    backbone(torch.rand(1, 3, 32, 32)).feature_maps[3].sum().backward()


def test_a_config_without_an_encoder_is_one_of_patches_of_16_pixels():
    config = PyramidConfig()
    assert config.backbone_config.patch_size == config.patch_size == 16
    again = PyramidConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_an_encoder_of_oblong_patches_is_refused(tmp_path: Path):
    settings = {**ONE_STRIDE["dinov3_vit"], "patch_size": [16, 8]}
    CONFIG_MAPPING["dinov3_vit"](**settings).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"patches of `dinov3_vit` measure \[16, 8\] pixels: expected squares"):
        tiny("dinov2", backbone=str(tmp_path), overrides={}).build(LABELS)


def test_weights_that_nobody_has_published_are_said_to_be_missing():
    with pytest.raises(
        ModelError, match=r"no model folder on the Hub has weights of `vitdet`.*\n\nhint: .*`--pretrained none`"
    ):
        tiny("vitdet", pretrained=None).build(LABELS)
