"""APNB, the asymmetric pyramid non-local block: every place reads averages over boxes in space and time.

Source: Zhu et al., arXiv 1908.07678; MendelXu/ANN@f4eabeb. How it sees memory is our definition: the keys and values of
each frame are sampled on the same grids, and one softmax goes over the cells of all frames.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.models.attention.asymmetric import AsymmetricAttention, AsymmetricConfig
from hfseg.models.attention.contract import Extent, Features, Maps, Reading, TemporalAttention
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.pyramid import ANN_GRIDS


class Apnb(TemporalAttention):
    """Narrow the map and read with it; without `narrow_kernel` it is `channels` wide and taken as it is.

    One projection makes keys and queries. A frame is remembered as 110 keys and values, whatever its size.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        key_channels: int,
        value_channels: int,
        grids: Sequence[int] = ANN_GRIDS,
        time_bins: int | None = None,
        includes_current: bool = True,
        narrow_kernel: int | None = 1,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.narrow: nn.Module = (
            nn.Identity() if narrow_kernel is None else conv_norm(in_channels, channels, size=narrow_kernel)
        )
        self.attention = AsymmetricAttention(
            channels,
            channels,
            key_channels=key_channels,
            value_channels=value_channels,
            grids=grids,
            time_bins=time_bins,
            own_query=False,
            relu=True,
        )

    def prepare(self, frame: Features) -> Maps:
        """Narrow, and project queries, which are the keys too."""
        narrow = self.narrow(frame.high)
        return {"map": narrow, "query": self.attention.queries(narrow)}

    def remember(self, prepared: Maps) -> Maps:
        """Sample keys and values."""
        return self.attention.remember(prepared["query"], prepared["map"])

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read the cells of all frames."""
        read: Tensor = self.attention(prepared["map"], prepared["query"], frames)
        return read

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """One softmax over the cells of all frames."""
        return (self.attention.reading(prepared["query"], frames, place),)

    def prepare_macs(self, extent: Extent) -> int:
        """Count n C channels where the map is narrowed, and n channels ck."""
        return extent.places * weights_in(self.narrow) + self.attention.query_macs(extent.places)

    def remember_macs(self, extent: Extent) -> int:
        """Count n channels cv."""
        return extent.places * weights_in(self.attention.value)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """Count n t S (ck + cv) and n [cv channels + 2 channels^2]."""
        return self.attention.read_macs(extent.places, frames=frames)


class ApnbConfig(AsymmetricConfig):
    """Asymmetric pyramid non-local block: every place reads averages over boxes in space and time."""

    kind: Literal["apnb"] = "apnb"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output, and of the map that is read with."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map of every frame; 3 in ANN, which costs nine times as much."""
    include_current: bool = True
    """Whether the current frame is read beside those in memory."""

    def build(self, in_channels: int, low_channels: int | None = None) -> Apnb:
        """Build the block; the stage before the last is not read."""
        return Apnb(
            in_channels,
            self.channels,
            **self.sizes,
            includes_current=self.include_current,
            narrow_kernel=self.narrow_kernel,
        )
