"""The contract of temporal attention blocks: one frame reads those before it, and what is kept of a frame is kept once.

A block turns an encoder's maps of a frame, and what it remembers of `t` earlier frames, into the map that a classifier
takes. It works in three steps, so that a stream computes nothing twice:

- `prepare(frame)`: what both roles of a frame need, current and remembered, for instance narrower maps;
- `remember(prepared)`: what later frames read of it, as small as the block allows; this is what a stream caches;
- `recall(prepared, frames)`: the read itself, of the current frame from one or more frames.

All that is remembered of a frame depends on that frame alone, so it stays valid when the frame gets older. Callers use
`block(query, memory)` for clips and `block.step(frame, memory)` for streams; both give the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hfseg.config import Config

Maps = dict[str, Tensor]
"""Tensors by name: "b ..." of one frame, "b t ..." of several, oldest first."""
ALL_PLACES = "all places of all frames"
"""What most blocks read, in words."""


@dataclass(frozen=True, slots=True)
class Features:
    """An encoder's maps of a frame "b c h w", or of the frames of clips "b t c h w", oldest first."""

    high: Float[Tensor, "b *t c h w"]
    """The last stage's map."""
    low: Float[Tensor, "b *t c_low h_low w_low"] | None = None
    """The map of the stage before it, for blocks that read two stages; of any size."""


class Reading(NamedTuple):
    """What one place of the current frame takes of every cell under one softmax: all weights sum to 1."""

    what: str
    """What it is, in words."""
    grids: tuple[Float[Tensor, "_t _rows _columns"], ...]
    """The weights of each grid of cells, for the frames in the order in which they are read; a grid lies evenly over
    the map. NaN where the place does not look."""
    frames: tuple[range, ...]
    """The numbers of the frames that each of these stands for, among those that are read: one, or several averaged."""

    @classmethod
    def of_frames(cls, what: str, *grids: Float[Tensor, "t _rows _columns"]) -> "Reading":
        """Weights of single frames."""
        return cls(what, grids, tuple(range(number, number + 1) for number in range(len(grids[0]))))


class Extent(NamedTuple):
    """Heights and widths of the maps that costs are counted for."""

    high: tuple[int, int]
    low: tuple[int, int]

    @property
    def places(self) -> int:
        """Places of the last stage's map."""
        return self.high[0] * self.high[1]

    @property
    def low_places(self) -> int:
        """Places of the map of the stage before."""
        return self.low[0] * self.low[1]


class SpecialStart(nn.Module, ABC):
    """A module with weights that start otherwise than those of PyTorch's layers."""

    @abstractmethod
    def reset_parameters(self) -> None:
        """Give these weights their start."""


class TemporalAttention(nn.Module, ABC):
    """A block that reads the current frame from earlier ones; the output is `channels` wide.

    `includes_current` says whether the current frame stands among the frames that are read, as the newest. Without
    earlier frames it always does, and stands alone: that is image mode. `reads_memory` is false for blocks that never
    read another frame than the current one.
    """

    reads_memory: bool = True
    exact: tuple[str, ...] = ()
    """Names of what is remembered in float32 always, as half types would not hold it."""

    def __init__(self, channels: int, *, includes_current: bool) -> None:
        super().__init__()
        self.channels, self.includes_current = channels, includes_current

    @abstractmethod
    def prepare(self, frame: Features) -> Maps:
        """Compute what a frame needs in both its roles."""

    @abstractmethod
    def remember(self, prepared: Maps) -> Maps:
        """Choose or compute what later frames read of a prepared frame."""

    @abstractmethod
    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read the current, prepared frame from what is remembered of one or more frames, oldest first."""

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """Say by which weights one place (row, column) of one prepared frame reads, given what `recall` is given.

        These are the weights by which `recall` averages values. Nothing where a block has none, or reads no frame but
        the current one.
        """
        return ()

    @abstractmethod
    def prepare_macs(self, extent: Extent) -> int:
        """Count the multiply-adds of `prepare`, per image."""

    @abstractmethod
    def remember_macs(self, extent: Extent) -> int:
        """Count the multiply-adds of `remember`, per image."""

    @abstractmethod
    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """Count the multiply-adds of `recall` from so many frames, per image."""

    def forward(self, query: Features, memory: Features | None = None) -> Float[Tensor, "b c h w"]:
        """Read the current frame of clips from the frames before it; None or no frames is image mode."""
        past = None
        if self.reads_memory and memory is not None and memory.high.shape[1]:
            past = self.encode(memory)
        return self.read(self.prepare(query), past)

    def encode(self, frames: Features) -> Maps:
        """Give what is remembered of a frame, "b ...", or of the frames of clips, "b t ..."; all of them at once."""
        leading = frames.high.shape[:-3]
        low = None if frames.low is None else frames.low.flatten(0, -4)
        flat = Features(frames.high.flatten(0, -4), low)
        return {name: each.unflatten(0, leading) for name, each in self.remember(self.prepare(flat)).items()}

    def read(self, prepared: Maps, memory: Maps | None, current: Maps | None = None) -> Float[Tensor, "b c h w"]:
        """Read a prepared frame from what is remembered of earlier ones; None or no frames is image mode.

        `current` is what is remembered of the frame itself; where it is needed and not given, it is computed. Memory
        may be of another floating type than the maps, as `compact` makes it.
        """
        return self.recall(prepared, self.gather(prepared, memory, current))

    def gather(self, prepared: Maps, memory: Maps | None, current: Maps | None = None) -> Maps:
        """Put together the frames that `recall` reads, out of what `read` is given."""
        past = {name: each for name, each in (memory or {}).items() if self.reads_memory and each.shape[1]}
        past = self.compact(past, next(iter(prepared.values())).dtype)
        if past and not self.includes_current:
            return past
        own = {name: each[:, None] for name, each in (current or self.remember(prepared)).items()}
        return {name: _after(past.get(name), each) for name, each in own.items()}

    def step(self, frame: Features, memory: Maps | None) -> tuple[Float[Tensor, "b c h w"], Maps]:
        """Read one frame of a stream, and give what is to be remembered of it beside the map."""
        prepared = self.prepare(frame)
        kept = self.remember(prepared)
        return self.read(prepared, memory, kept), kept

    def compact(self, remembered: Maps, dtype: torch.dtype) -> Maps:
        """Turn what is remembered into another floating type, half for instance, as far as it stands it."""
        return {name: each if name in self.exact else each.to(dtype) for name, each in remembered.items()}

    def macs(self, extent: Extent, *, frames: int, streaming: bool = False) -> int:
        """Count the multiply-adds of convolutions and products, per image, with so many frames before the current one.

        For a clip, or for one frame of a stream. Lean ways of attending may do more: `fused` pads widths, `chunked`
        computes scores again in the backward pass.
        """
        past = frames if self.reads_memory else 0
        attended = past + int(self.includes_current or not past)
        prepared, remembered = (1, 1) if streaming else (1 + past, attended)
        each = prepared * self.prepare_macs(extent) + remembered * self.remember_macs(extent)
        return each + self.recall_macs(extent, frames=attended)

    def reset_parameters(self) -> None:
        """Give the weights that do not start as PyTorch's layers do (zeros, mostly) their start again.

        For models whose own initialization has gone over all layers: to be called after it.
        """
        for module in self.modules():
            if isinstance(module, SpecialStart):
                module.reset_parameters()


class AttentionBlockConfig(Config, ABC):
    """The settings of a block; `kind` picks the member."""

    reads_low: ClassVar[bool] = False
    """Whether `Features.low` is needed."""

    @abstractmethod
    def build(self, in_channels: int, low_channels: int | None = None) -> TemporalAttention:
        """Build the block for an encoder whose last stage, and the stage before it, have so many channels."""


def stack_frames(frames: Sequence[Maps]) -> Maps:
    """Put what is remembered of frames, oldest first, beside each other: "b ..." becomes "b t ..."."""
    return {name: torch.stack([frame[name] for frame in frames], dim=1) for name in frames[0]}


def _after(past: Tensor | None, own: Tensor) -> Tensor:
    return own if past is None else torch.cat([past, own], dim=1)
