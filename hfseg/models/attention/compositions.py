"""Blocks put together: the fusion of two stages first, then one or two reads of memory on what it gives.

Source: AFNB, then APNB is the head of asymmetric non-local nets, Zhu et al., arXiv 1908.07678. How it sees memory, and
the composition with dual attention, are our definition: every frame is fused with its own lower stage, so that what is
kept of it depends on it alone; reads stand side by side and are summed, as dual attention sums its branches.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.models.attention.afnb import low_of, low_width
from hfseg.models.attention.apnb import Apnb
from hfseg.models.attention.asymmetric import AsymmetricAttention
from hfseg.models.attention.contract import (
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    TemporalAttention,
)
from hfseg.models.attention.dual import Dual
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.pyramid import ANN_GRIDS, Grids


class Composition(TemporalAttention):
    """AFNB within each frame, a convolution to `channels`, then blocks of that width, summed."""

    def __init__(
        self, fusion: AsymmetricAttention, narrow: nn.Sequential, channels: int, blocks: Mapping[str, TemporalAttention]
    ) -> None:
        """Put blocks together, which take and give `channels` and agree about the current frame."""
        super().__init__(channels, includes_current=all(block.includes_current for block in blocks.values()))
        self.fusion, self.narrow = fusion, narrow
        self.blocks = nn.ModuleDict(blocks)
        self.exact = tuple(f"{name}.{key}" for name, block in blocks.items() for key in block.exact)

    def prepare(self, frame: Features) -> Maps:
        """Fuse the stages of the frame, narrow, and prepare for every block."""
        fused = Features(self.narrow(self.fusion.alone(frame.high, low_of(frame))))
        return {f"{name}.{key}": each for name, block in self._named() for key, each in block.prepare(fused).items()}

    def remember(self, prepared: Maps) -> Maps:
        """Choose what every block remembers."""
        return {
            f"{name}.{key}": each
            for name, block in self._named()
            for key, each in block.remember(_inside(prepared, name)).items()
        }

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read by every block, and sum."""
        reads = [block.recall(_inside(prepared, name), _inside(frames, name)) for name, block in self._named()]
        return torch.stack(reads).sum(0)

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """Those of every block; what the fusion reads in its own frame is left out."""
        return tuple(
            each._replace(what=f"{name}, {each.what}")
            for name, block in self._named()
            for each in block.readings(_inside(prepared, name), _inside(frames, name), place)
        )

    def prepare_macs(self, extent: Extent) -> int:
        """AFNB in a frame, n C channels, and what the blocks need."""
        fusion, n = self.fusion, extent.places
        low = extent.low_places * weights_in(fusion.key, fusion.value)
        high = fusion.query_macs(n) + fusion.read_macs(n, frames=1) + n * weights_in(self.narrow)
        return low + high + sum(block.prepare_macs(extent) for _, block in self._named())

    def remember_macs(self, extent: Extent) -> int:
        """The sum of the blocks'."""
        return sum(block.remember_macs(extent) for _, block in self._named())

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """The sum of the blocks'."""
        return sum(block.recall_macs(extent, frames=frames) for _, block in self._named())

    def _named(self) -> list[tuple[str, TemporalAttention]]:
        return [(name, block) for name, block in self.blocks.items() if isinstance(block, TemporalAttention)]


def _inside(maps: Maps, name: str) -> Maps:
    """The maps of one block, by its own names."""
    return {key.removeprefix(f"{name}."): each for key, each in maps.items() if key.startswith(f"{name}.")}


class FusedFirstConfig(AttentionBlockConfig):
    """The settings of a composition: those of AFNB, APNB, and whatever stands beside it."""

    reads_low: ClassVar[bool] = True

    channels: PositiveInt = 512
    """Width of the output, and of the map that memory is read with."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map of every frame after the fusion; 3 in ANN, which costs nine times
    as much."""
    key_channels: PositiveInt = 256
    """Width of queries and keys, in AFNB and APNB."""
    value_channels: PositiveInt = 256
    """Width of values, in AFNB and APNB."""
    pool_sizes: Grids = ANN_GRIDS
    """Cells on a side of each grid of the pyramid."""
    time_bins: PositiveInt | None = None
    """Bins along time that frames are averaged to; unset gives each frame cells of its own."""
    include_current: bool = True
    """Whether the current frame is read beside those in memory."""

    @abstractmethod
    def blocks(self) -> dict[str, TemporalAttention]:
        """Build the blocks that read memory, by name."""

    def build(self, in_channels: int, low_channels: int | None = None) -> Composition:
        """Build the block.

        Raises:
            ModelError: the encoder gives one stage only.
        """
        fusion = AsymmetricAttention(
            low_width(self, low_channels),
            in_channels,
            key_channels=self.key_channels,
            value_channels=self.value_channels,
            grids=self.pool_sizes,
            own_query=True,
            relu=False,
        )
        narrow = conv_norm(in_channels, self.channels, size=self.narrow_kernel)
        return Composition(fusion, narrow, self.channels, self.blocks())

    def apnb(self) -> Apnb:
        """Build APNB, for a map that is narrow already."""
        return Apnb(
            self.channels,
            self.channels,
            key_channels=self.key_channels,
            value_channels=self.value_channels,
            grids=self.pool_sizes,
            time_bins=self.time_bins,
            includes_current=self.include_current,
            narrow_kernel=None,
        )


class ApnbAfnbConfig(FusedFirstConfig):
    """AFNB within each frame, then APNB over memory: asymmetric non-local nets."""

    kind: Literal["apnb+afnb"] = "apnb+afnb"
    """Picks this block."""

    def blocks(self) -> dict[str, TemporalAttention]:
        """Read by APNB alone."""
        return {"apnb": self.apnb()}


class DualApnbAfnbConfig(FusedFirstConfig):
    """AFNB within each frame, then APNB and dual attention over memory, summed."""

    kind: Literal["dual+apnb+afnb"] = "dual+apnb+afnb"
    """Picks this block."""

    def blocks(self) -> dict[str, TemporalAttention]:
        """Read by APNB and dual attention side by side."""
        dual = Dual(self.channels, self.channels, includes_current=self.include_current)
        return {"apnb": self.apnb(), "dual": dual}
