"""How deep in a model each parameter lies, which layer-wise learning rates go by."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from hfseg.models import anatomy

Unit = Literal["stage", "block"]
"""What a step of depth is: a resolution of the encoder, or one of its blocks."""


def parameter_depths(hf: Any, *, by: Unit) -> dict[str, int]:
    """Give each parameter of a segmentation model its depth, from the stem at 0 to the heads, which share the largest.

    What stands before the stages is the stem. Inside a stage, what is in no block (patch embeddings, downsampling)
    goes with the block that it stands before, or behind where there is none. Norms and necks behind the stages count
    as heads.
    Source: the rule of mmsegmentation's `LearningRateDecayOptimizerConstructor`, for any encoder.
    """
    names = [name for name, _ in hf.named_parameters()]
    encoder, stages = f"{anatomy.encoder_name(hf)}.", anatomy.stages(hf)
    depths: dict[str, int] = {}
    done = 0
    for stage in stages:
        blocks = list(_blocks(hf, stage)) if by == "block" else [stage]
        depth = done + 1
        for name in (name for name in names if name.startswith(f"{stage}.")):
            inside = (number for number, block in enumerate(blocks, start=done + 1) if name.startswith(f"{block}."))
            depth = next(inside, depth)
            depths[name] = depth
        done += len(blocks)
    first = next((place for place, name in enumerate(names) if name in depths), 0)
    for place, name in enumerate(names):
        depths.setdefault(name, 0 if place < first and name.startswith(encoder) else done + 1)
    return depths


def _blocks(hf: Any, stage: str) -> Iterator[str]:
    """The entries of the list that holds most of a stage's parameters; the stage itself where it has no list."""
    lists = [
        (name, module)
        for name, module in hf.get_submodule(stage).named_modules(prefix=stage)
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module)
    ]
    largest = max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()), default=None)
    if largest is None:
        yield stage
        return
    yield from (f"{largest[0]}.{child}" for child in dict(largest[1].named_children()))
