"""MobileNetV2 as a pyramid encoder: the maps and the tensors of Transformers' class, at any size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2Model,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hfseg.models.backbones.mobilenet_v2 import MobileNetV2Backbone, MobileNetV2BackboneConfig
from hfseg.models.registration import register
from hfseg.models.sources import quiet

register()
MAPS = ["stage1", "stage2", "stage3", "stage4"]
LAST_BLOCKS = (1, 4, 11, 15)
"""Which of Transformers' 16 hidden states are the last of their resolution."""
SIZES = [(64, 96), (65, 97), (33, 127), (1, 31)]


def config(**overrides: Any) -> MobileNetV2BackboneConfig:
    return MobileNetV2BackboneConfig(**{"depth_multiplier": 0.25, "out_features": MAPS, **overrides})


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Move the statistics and scales of the batch norms away from 0 and 1, where mistakes cannot be seen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "normalization" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tf_padding", [True, False])
def test_maps_are_the_last_of_each_resolution_in_transformers(size: tuple[int, int], tf_padding: bool):
    theirs = randomized(MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, tf_padding=tf_padding)))
    ours = MobileNetV2Backbone(config(tf_padding=tf_padding)).eval()
    left = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not left.missing_keys
    assert {name.split(".")[0] for name in left.unexpected_keys} == {"conv_1x1"}
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = ours(images).feature_maps
        states = theirs(images, output_hidden_states=True).hidden_states
    assert all(torch.equal(mine, states[index]) for mine, index in zip(maps, LAST_BLOCKS, strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_strides_are_4_8_16_32_rounded_up_and_channels_are_declared(size: tuple[int, int]):
    backbone = MobileNetV2Backbone(config()).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, *size)).feature_maps
    assert [tuple(each.shape[2:]) for each in maps] == [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]
    assert [each.shape[1] for each in maps] == backbone.channels


@pytest.mark.parametrize(
    ("multiplier", "channels"),
    [(1.0, [24, 32, 96, 320]), (1.4, [32, 48, 136, 448]), (0.5, [16, 16, 48, 160]), (0.35, [8, 16, 32, 112])],
)
def test_published_widths(multiplier: float, channels: list[int]):
    with torch.device("meta"):
        assert MobileNetV2Backbone(config(depth_multiplier=multiplier)).channels == channels


def test_published_parameter_count_without_the_classifier():
    with torch.device("meta"):
        backbone = MobileNetV2Backbone(config(depth_multiplier=1.0))
    count = sum(p.numel() for p in backbone.parameters())
    last_convolution, classifier = 320 * 1280 + 2 * 1280, 1280 * 1000 + 1000
    assert count + last_convolution + classifier == 3_504_872


@pytest.mark.many
@pytest.mark.parametrize("whole", [MobileNetV2ForImageClassification, MobileNetV2ForSemanticSegmentation])
def test_published_checkpoints_load_whole(whole: Any, tmp_path: Path):
    published = whole(MobileNetV2Config(depth_multiplier=0.25))
    with quiet():
        randomized(published).save_pretrained(tmp_path)
        backbone, info = MobileNetV2Backbone.from_pretrained(tmp_path, config=config(), output_loading_info=True)
    assert not any(info.values())
    stored = published.mobilenet_v2.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.slow
def test_a_saved_backbone_opens_equal_through_the_auto_classes(tmp_path: Path):
    backbone = randomized(MobileNetV2Backbone(config(batch_norm_momentum=0.02)))
    with quiet():
        backbone.save_pretrained(tmp_path)
        again = AutoBackbone.from_config(AutoConfig.from_pretrained(tmp_path))
        assert type(again) is MobileNetV2Backbone
        again, info = MobileNetV2Backbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.to_dict() == {**backbone.config.to_dict(), "_name_or_path": str(tmp_path)}
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in backbone.state_dict().items())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        pairs = zip(backbone(images).feature_maps, again(images).feature_maps, strict=True)
        assert all(torch.equal(before, after) for before, after in pairs)


@pytest.mark.slow
def test_upernet_of_transformers_saves_and_opens_it(tmp_path: Path):
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=config(), hidden_size=8, auxiliary_channels=8, auxiliary_in_channels=24)
    )
    with quiet():
        randomized(model).save_pretrained(tmp_path)
        again = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert again.config.backbone_config.out_features == MAPS
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_gradients_reach_every_parameter():
    backbone = MobileNetV2Backbone(config())
    sum(each.square().mean() for each in backbone(torch.randn(2, 3, 64, 96)).feature_maps).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]


def test_running_statistics_remember_more_than_the_last_batch():
    backbone = MobileNetV2Backbone(config()).train()
    norm = backbone.conv_stem.first_conv.normalization
    bright, dark = torch.randn(2, 3, 64, 64) + 3, torch.randn(2, 3, 64, 64) - 3
    expected = norm.running_mean.clone()
    with torch.no_grad():
        for images in (bright, dark):
            seen = torch.nn.functional.conv2d(
                torch.nn.functional.pad(images, (0, 1, 0, 1)),
                backbone.conv_stem.first_conv.convolution.weight,
                stride=2,
            ).mean((0, 2, 3))
            expected = 0.9 * expected + 0.1 * seen
            backbone(images)
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)


def test_the_pace_of_the_batch_norms_is_a_setting():
    backbone = MobileNetV2Backbone(config(batch_norm_momentum=0.02))
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.02}


def test_arguments_of_every_backbone_are_known():
    backbone = MobileNetV2Backbone(config()).eval()
    images = torch.randn(1, 3, 64, 64)
    outputs = backbone.forward_with_filtered_kwargs(images, output_hidden_states=True, output_attentions=True)
    assert outputs.attentions is None
    assert [each.shape[1] for each in outputs.hidden_states] == [8, *backbone.channels]
    assert torch.equal(backbone(images, return_dict=False)[0][-1], outputs.feature_maps[-1])


def test_recomputing_batch_norms_is_not_offered():
    assert not MobileNetV2Backbone.supports_gradient_checkpointing
