"""AFNB, the asymmetric fusion non-local block: the last stage reads averages of the stage before it.

Source: Zhu et al., arXiv 1908.07678; MendelXu/ANN@f4eabeb. How it sees memory is our definition: the cells are those of
the earlier frames' lower stages, all under one softmax, and of the current frame's, whose fusion it is made for.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from hfseg.errors import ModelError
from hfseg.models.attention.asymmetric import AsymmetricAttention, AsymmetricConfig
from hfseg.models.attention.contract import (
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    TemporalAttention,
)
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.pyramid import ANN_GRIDS


class Afnb(TemporalAttention):
    """Fuse the lower stage into the last at its full width, then narrow to `channels`."""

    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        channels: int,
        *,
        key_channels: int,
        value_channels: int,
        grids: Sequence[int] = ANN_GRIDS,
        time_bins: int | None = None,
        includes_current: bool = True,
        narrow_kernel: int = 1,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.attention = AsymmetricAttention(
            low_channels,
            in_channels,
            key_channels=key_channels,
            value_channels=value_channels,
            grids=grids,
            time_bins=time_bins,
            own_query=True,
            relu=False,
        )
        self.narrow = conv_norm(in_channels, channels, size=narrow_kernel)

    def prepare(self, frame: Features) -> Maps:
        """Take both stages as they are."""
        return {"high": frame.high, "low": low_of(frame)}

    def remember(self, prepared: Maps) -> Maps:
        """Sample keys and values of the lower stage."""
        low = prepared["low"]
        return self.attention.remember(self.attention.key(low), low)

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read with the last stage, fuse, narrow."""
        high = prepared["high"]
        narrow: Tensor = self.narrow(self.attention(high, self.attention.queries(high), frames))
        return narrow

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """One softmax over the cells of the lower stages of all frames."""
        return (self.attention.reading(self.attention.queries(prepared["high"]), frames, place),)

    def prepare_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def remember_macs(self, extent: Extent) -> int:
        """Count nl Cl (ck + cv)."""
        return extent.low_places * weights_in(self.attention.key, self.attention.value)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """Count n C ck, n t S (ck + cv), n [cv C + 2 C^2], and n C channels."""
        n, attention = extent.places, self.attention
        return attention.query_macs(n) + attention.read_macs(n, frames=frames) + n * weights_in(self.narrow)


class AfnbConfig(AsymmetricConfig):
    """Asymmetric fusion non-local block: the last stage reads averages of the stage before it."""

    reads_low: ClassVar[bool] = True

    kind: Literal["afnb"] = "afnb"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map after the fusion; 3 in ANN, which costs nine times as much."""
    include_current: bool = True
    """Whether the current frame's lower stage is read beside those in memory."""

    def build(self, in_channels: int, low_channels: int | None = None) -> Afnb:
        """Build the block.

        Raises:
            ModelError: the encoder gives one stage only.
        """
        return Afnb(
            in_channels,
            low_width(self, low_channels),
            self.channels,
            **self.sizes,
            includes_current=self.include_current,
            narrow_kernel=self.narrow_kernel,
        )


def low_of(frame: Features) -> Tensor:
    """Give the map of the stage before the last.

    Raises:
        ValueError: the frame has none.
    """
    if frame.low is None:
        raise ValueError("this block reads the stage before the last: expected `Features.low`")
    return frame.low


def low_width(config: AttentionBlockConfig, low_channels: int | None) -> int:
    """Give the width of the stage before the last.

    Raises:
        ModelError: there is no such stage.
    """
    if low_channels is None:
        kind = config.model_dump()["kind"]
        raise ModelError(
            f"attention `{kind}` fuses the encoder's last two stages: got an encoder of one",
            hint="take another encoder, or attention `apnb`",
        )
    return low_channels
