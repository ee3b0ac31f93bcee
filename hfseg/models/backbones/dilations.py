"""Dilations of DiNAT's layers: checked against its depths, and chosen from the size of the images it is trained on.

Weights do not depend on dilations, so a checkpoint that was trained at 224 pixels can look further on larger images.
"""

from collections.abc import Sequence
from typing import Any

from hfseg.errors import ModelError

Dilations = list[list[int]]

STRIDES = (4, 8, 16, 32)
"""Pixels between neighbours on the map of each level."""


def auto_dilations(depths: Sequence[int], *, kernel_size: int, crop: tuple[int, int]) -> Dilations:
    """Choose dilations for a crop of (height, width) pixels: local layers in turn with ever wider ones.

    Every second layer is dilated. The widest window of a level spans its map: the largest dilation is the map's shorter
    side over the kernel size plus one. A level with many layers goes through 2, 3, ... up to that and starts again, the
    last always being the widest; one with few layers divides the range evenly. For kernel 7 this gives exactly what the
    authors used on ADE20K at 512 and at 640 pixels.

    Source: the segmentation configs of SHI-Labs/Neighborhood-Attention-Transformer.
    """
    return [
        _level(depth, largest=min(crop) // stride // (kernel_size + 1))
        for depth, stride in zip(depths, STRIDES, strict=True)
    ]


def _level(depth: int, *, largest: int) -> list[int]:
    count = depth // 2
    if largest <= 1 or not count:
        return [1] * depth
    steps = largest - 1
    if count < steps:
        wide = [largest * (place + 1) // count for place in range(count)]
    else:
        wide = [2 + place % steps for place in range(count - 1)] + [largest]
    return [wide[place // 2] if place % 2 else 1 for place in range(depth)]


def check_dilations(dilations: Sequence[Any], depths: Sequence[int]) -> None:
    """See that there is one positive dilation per layer of each level.

    Raises:
        ModelError: there is not; says where.
    """
    if len(dilations) != len(depths):
        raise ModelError(
            f"dilations are given for {len(dilations)} levels: the encoder has {len(depths)}",
            hint="one list per level, for instance [[1, 8, 1], [1, 4, 1, 4], ...], or `auto`",
        )
    for level, (given, depth) in enumerate(zip(dilations, depths, strict=True)):
        if len(given) != depth:
            raise ModelError(
                f"dilations of level {level} are {list(given)}: expected {depth} numbers, one per layer",
                hint="`auto` chooses them from the training crop",
            )
        wrong = [each for each in given if not isinstance(each, int) or each < 1]
        if wrong:
            raise ModelError(f"dilations of level {level} hold {wrong[0]!r}: expected whole numbers from 1")
