"""Dilated encoders: finer maps that hold, at the places they share, what the encoder's own maps hold."""

from typing import Any

import pytest
import torch
from test_models_backbones import TINY
from torch import Tensor, nn
from transformers import AutoBackbone

from hfseg.errors import ModelError
from hfseg.models.backbones import FAMILIES
from hfseg.models.backbones.plan import plan
from hfseg.models.dilation import CONFIGURED, DILATABLE, REWRITTEN, build_dilated

RESNETS = {"resnet, bottlenecks": "bottleneck", "resnet, basic blocks": "basic"}
MEMBERS = [*RESNETS, *(family for family in REWRITTEN if family != "resnet")]
KEPT = sorted(set(FAMILIES) - {"segformer", *DILATABLE})


def config_of(member: str) -> Any:
    if member in RESNETS:
        several = {**TINY["resnet"], "depths": [2, 2, 3, 3], "layer_type": RESNETS[member]}
        return plan("resnet", "none", overrides=several).config
    return plan(member, "none", overrides=TINY[member]).config


def randomized(module: nn.Module) -> None:
    """Draw norms, statistics and scales; ConvNeXt V2's response norm, which averages over the map, stays at nothing."""
    generator = torch.Generator().manual_seed(1)
    for value in module.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)


def maps(backbone: nn.Module, size: tuple[int, int]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(backbone(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))).feature_maps)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("member", MEMBERS)
def test_every_other_place_holds_the_features_of_the_encoder_as_it_was(member: str, output_stride: int):
    torch.manual_seed(0)
    own = AutoBackbone.from_config(config_of(member)).eval()
    randomized(own)
    dilated = build_dilated(config_of(member), output_stride).eval()
    dilated.load_state_dict(own.state_dict())
    for coarse, fine, stride in zip(maps(own, (64, 96)), maps(dilated, (64, 96)), (4, 8, 16, 32), strict=True):
        step = max(1, stride // output_stride)
        assert fine.shape[2:] == (64 // min(stride, output_stride), 96 // min(stride, output_stride))
        assert coarse.std() > 0.01
        torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("member", [*RESNETS, "hgnet_v2"])
def test_a_size_that_no_stride_divides_shares_its_places_too(member: str):
    own = AutoBackbone.from_config(config_of(member)).eval()
    dilated = build_dilated(config_of(member), 8).eval()
    dilated.load_state_dict(own.state_dict())
    coarse, fine = maps(own, (70, 106))[-1], maps(dilated, (70, 106))[-1]
    assert (coarse.shape[2:], fine.shape[2:]) == ((3, 4), (9, 14))
    torch.testing.assert_close(fine[..., ::4, ::4], coarse, rtol=1e-4, atol=1e-5)


def three_by_three(backbone: Any, stage: int) -> list[list[int]]:
    """The dilations of the 3 x 3 convolutions of each block of a stage, counted from 1."""
    blocks = backbone.encoder.stages[stage - 1].layers
    convs = ([each for each in block.modules() if isinstance(each, nn.Conv2d)] for block in blocks)
    return [[conv.dilation[0] for conv in block if conv.kernel_size == (3, 3)] for block in convs]


def test_dilations_of_bottlenecks_are_contracted():
    backbone = build_dilated(config_of("resnet, bottlenecks"), 8)
    assert three_by_three(backbone, 2) == [[1], [1]]
    assert three_by_three(backbone, 3) == [[1], [2], [2]]
    assert three_by_three(backbone, 4) == [[2], [4], [4]]
    backbone = build_dilated(config_of("resnet, bottlenecks"), 16)
    assert three_by_three(backbone, 3) == [[1], [1], [1]]
    assert three_by_three(backbone, 4) == [[1], [2], [2]]


def test_in_basic_blocks_what_stands_behind_the_stride_is_dilated():
    backbone = build_dilated(config_of("resnet, basic blocks"), 8)
    assert three_by_three(backbone, 3) == [[1, 2], [2, 2], [2, 2]]
    assert three_by_three(backbone, 4) == [[2, 4], [4, 4], [4, 4]]


@pytest.mark.parametrize("family", CONFIGURED)
def test_families_that_dilate_themselves_are_told_to(family: str):
    config = config_of(family)
    dilated, own = build_dilated(config, 8), AutoBackbone.from_config(config)
    assert [each.shape[-1] for each in maps(dilated.eval(), (64, 96))] == [24, 12, 12, 12]
    assert dilated.state_dict().keys() == own.state_dict().keys()
    assert config.output_stride == 32, "the config that was given is left alone"


def test_the_encoders_own_stride_changes_nothing():
    config = config_of("resnet, basic blocks")
    assert str(build_dilated(config, 32)) == str(AutoBackbone.from_config(config))


@pytest.mark.parametrize("family", KEPT)
def test_other_encoders_say_that_they_keep_their_stride(family: str):
    with pytest.raises(ModelError, match=f"`{family}` keeps the stride of its maps: `output_stride` is 8") as caught:
        build_dilated(config_of(family), 8)
    assert "resnet" in str(caught.value.hint)
