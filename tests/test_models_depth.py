"""Every parameter has one depth, whatever the encoder, and depth grows from the stem to the heads."""

import re

import pytest
import torch

from hfseg.engine.optim import OptimConfig
from hfseg.labels import LabelSpace
from hfseg.models import SegformerModelConfig, UperNetModelConfig, anatomy
from hfseg.models.depth import parameter_depths

SPACE = LabelSpace.from_names(("a", "b", "c"))
MODELS = {
    "mit-b0": SegformerModelConfig(backbone="mit-b0", pretrained="none"),
    **{
        name: UperNetModelConfig(backbone=name, pretrained="none")
        for name in (
            "convnext-tiny",
            "swin-tiny",
            "maskformer-swin-tiny",
            "nat-mini",
            "dinat-mini",
            "resnet-18",
            "dinov2-small",
        )
    },
}
"""Blocks of each stage."""
BLOCKS = {
    "mit-b0": (2, 2, 2, 2),
    "convnext-tiny": (3, 3, 9, 3),
    "swin-tiny": (2, 2, 6, 2),
    "maskformer-swin-tiny": (2, 2, 6, 2),
    "nat-mini": (3, 4, 6, 5),
    "dinat-mini": (3, 4, 6, 5),
    "resnet-18": (2, 2, 2, 2),
    "dinov2-small": (1,) * 12,
}


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    with torch.device("meta"):
        return request.param, MODELS[request.param].build(SPACE)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["stage", "block"])
def test_depths_count_the_stages_or_blocks_and_put_the_heads_last(built, by):
    name, segmenter = built
    depths = parameter_depths(segmenter.hf, by=by)
    assert depths.keys() == dict(segmenter.hf.named_parameters()).keys()
    steps = len(BLOCKS[name]) if by == "stage" else sum(BLOCKS[name])
    assert set(depths.values()) - {0} == set(range(1, steps + 2))
    heads = {key for key in depths if key.startswith(anatomy.head_names(segmenter.hf))}
    assert heads
    assert {depths[key] for key in heads} == {steps + 1}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["stage", "block"])
def test_a_later_stage_and_a_later_block_is_deeper(built, by):
    _, segmenter = built
    depths = parameter_depths(segmenter.hf, by=by)
    ranges = [
        [depth for key, depth in depths.items() if key.startswith(f"{stage}.")]
        for stage in anatomy.stages(segmenter.hf)
    ]
    assert all(max(one) < min(two) for one, two in zip(ranges, ranges[1:], strict=False))
    for stage in anatomy.stages(segmenter.hf):
        numbered = {}
        for key, depth in depths.items():
            if match := re.match(rf"{re.escape(stage)}\.(?:blocks|layers)\.(\d+)\.", key):
                numbered.setdefault(int(match[1]), set()).add(depth)
        assert all(len(found) == 1 for found in numbered.values())
        order = [min(numbered[number]) for number in sorted(numbered)]
        assert order == sorted(order)


@pytest.mark.slow
def test_every_parameter_is_in_one_group_and_deeper_means_faster(built):
    _, segmenter = built
    depths = {f"hf.{key}": depth for key, depth in parameter_depths(segmenter.hf, by="block").items()}
    groups = OptimConfig(layer_decay=0.9).groups(segmenter, depths=depths)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in segmenter.parameters() if p.requires_grad)
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales)
    assert scales[-1] == 1.0
