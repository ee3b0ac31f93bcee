"""Attention maps of single points of an image, for every block of an encoder; which families can be read."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hfseg.errors import ModelError
from hfseg.models import anatomy
from hfseg.models.backbones.neck import PyramidBackbone
from hfseg.models.looking import fastervit, neighborhood, reduced, vit, windowed
from hfseg.models.looking.listening import Family, Heard, listening
from hfseg.models.looking.record import AttentionMap, Point, check_points
from hfseg.models.segmenter import Segmenter, evaluating

ATTENTIVE: Mapping[str, Family] = {
    "segformer": reduced.SEGFORMER,
    "pvt_v2": reduced.PVT_V2,
    "nat": neighborhood.NEIGHBORHOOD,
    "dinat": neighborhood.NEIGHBORHOOD,
    "swin": windowed.SWIN,
    "maskformer-swin": windowed.MASKFORMER_SWIN,
    "swinv2": windowed.SWIN_V2,
    "fastervit": fastervit.FASTERVIT,
    "beit": vit.BEIT,
    "dinov2": vit.DINO_V2,
    "dinov2_with_registers": vit.DINO_V2_REGISTERS,
    "dinov3_vit": vit.DINO_V3,
}
"""Families of encoders whose attention can be read, by their `model_type` in Transformers."""


def has_attention(segmenter: Segmenter) -> bool:
    """Whether the attention of a model's encoder can be read."""
    encoder: Any = segmenter.hf.get_submodule(anatomy.encoder_name(segmenter.hf))
    return str(encoder.config.model_type) in ATTENTIVE


@torch.no_grad()
def attention_maps(
    segmenter: Segmenter,
    pixel_values: UInt8[Tensor, "1 3 h w"] | Float[Tensor, "1 3 h w"],
    *,
    points: Sequence[Point] | None = None,
    stages: Collection[int] | None = None,
) -> list[AttentionMap]:
    """Find what the cells of one image at `points` attend to, in every block of `stages` (from 1), in their order.

    A point is a pixel of `pixel_values`, as the model sees it; without points it is the centre. The weights are made
    from the queries and keys of the forward pass itself, for these points alone: memory grows with their number, not
    with that of all queries. Only the encoder runs, in evaluation mode.

    Raises:
        ModelError: the encoder has no attention, or its attention cannot be read, or not in these stages.
        DataError: a point lies outside the image.
    """
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    asked = [(size[1] / 2, size[0] / 2)] if points is None else points
    check_points(asked, size)
    prefix = anatomy.encoder_name(segmenter.hf)
    outer, encoder = (segmenter.hf.get_submodule(name) for name in (prefix.partition(".")[0], prefix))
    family = _family(encoder)
    found: list[AttentionMap] = []
    with evaluating(segmenter), ExitStack() as stack:
        for stage, number, name in _chosen(encoder, family, stages):
            tiling, where = _tiling(outer, encoder, family, stage), (stage, number, f"{prefix}.{name}")
            looker = _Looker(family, where, tiling, size, asked, found)
            stack.enter_context(listening(encoder.get_submodule(name), family, looker))
        outer(pixel_values=segmenter.normalize(pixel_values))
    return found


class _Tiling(NamedTuple):
    """How queries lie on an image: pixels between two, and whether a last one that has less room is there or not."""

    stride: int
    rounds_up: bool

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the queries on an image of `size` (height, width)."""
        spare = self.stride - 1 if self.rounds_up else 0
        return (size[0] + spare) // self.stride, (size[1] + spare) // self.stride


def _tiling(outer: nn.Module, encoder: Any, family: Family, stage: int) -> _Tiling:
    """A neck around an encoder of one stride shows it images on which a token lies at other pixels than a patch has."""
    if isinstance(outer, PyramidBackbone):
        return _Tiling(outer.config.token_stride, rounds_up=True)
    return _Tiling(family.stride(encoder.config, stage - 1), family.rounds_up)


@dataclass(frozen=True, slots=True)
class _Looker:
    """Turns what was heard of one block into records: one for each point."""

    family: Family
    where: tuple[int, int, str]
    """Stage, number of the block in it, and its name."""
    tiling: _Tiling
    size: tuple[int, int]
    points: Sequence[Point]
    found: list[AttentionMap]

    def __call__(self, heard: Heard) -> None:
        """Look from every point."""
        stride, grid = self.tiling.stride, self.tiling.grid(self.size)
        for x, y in self.points:
            place = min(int(y) // stride, grid[0] - 1), min(int(x) // stride, grid[1] - 1)
            view = self.family.look(heard, grid, place).on_host()
            self.found.append(AttentionMap(*self.where, (x, y), grid, stride, place, view))


def _family(encoder: nn.Module) -> Family:
    kind = str(encoder.config.model_type)  # type: ignore[union-attr]
    if kind in ATTENTIVE:
        return ATTENTIVE[kind]
    attends = any("attention" in type(module).__name__.lower() for module in encoder.modules())
    problem = "computes attention in a way that is not known here" if attends else "has no attention to show"
    raise ModelError(
        f"encoder `{kind}` {problem}",
        hint=f"families whose attention can be shown: {', '.join(ATTENTIVE)}",
    )


def _chosen(encoder: nn.Module, family: Family, stages: Collection[int] | None) -> Iterator[tuple[int, int, str]]:
    """Find the blocks of some stages: stage, number in it from 1, name. The stage is the first number in the name.

    Raises:
        ModelError: a stage is none, or has no attention.
    """
    names = [name for name, module in encoder.named_modules() if type(module).__name__ == family.block]
    grouped = {stage: list(group) for stage, group in groupby(names, key=_stage)}
    for stage in sorted(grouped if stages is None else set(stages)):
        if stage not in grouped:
            listed = ", ".join(map(str, grouped))
            raise ModelError(f"stage {stage} has no attention: expected one of {listed}")
        yield from ((stage, number, name) for number, name in enumerate(grouped[stage], start=1))


def _stage(name: str) -> int:
    return int(next(part for part in name.split(".") if part.isdecimal())) + 1
