"""Dual attention: places read all places, and channels read all channels.

Source: Fu et al., Dual Attention Network for Scene Segmentation, arXiv 1809.02983; conventions of
junfu1115/DANet@b0a0fa0: scores are not scaled, gates start at zero, and channels that differ weigh more. How it sees
memory is our definition: places read the places of all frames under one softmax; the likeness of channels is averaged
over frames (not summed, so that t equal frames are one frame), and mixes the current frame's channels.
"""

from contextlib import nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.models.attention.attend import Attend, tokens
from hfseg.models.attention.contract import (
    ALL_PLACES,
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    SpecialStart,
    TemporalAttention,
)
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.lines import narrow_width


class PositionAttention(SpecialStart):
    """gamma x (average of values of all places of all frames) + the map; 1 x 1 convolutions with bias."""

    def __init__(self, channels: int, *, key_channels: int | None = None) -> None:
        super().__init__()
        self.channels, self.key_channels = channels, key_channels or narrow_width(channels)
        self.query, self.key = (nn.Conv2d(channels, self.key_channels, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.attend = Attend()
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Be the identity at first."""
        nn.init.zeros_(self.gamma)

    def forward(
        self,
        maps: Float[Tensor, "b c h w"],
        key: Float[Tensor, "b t d h2 w2"],
        value: Float[Tensor, "b t c h2 w2"],
    ) -> Float[Tensor, "b c h w"]:
        """Read all places of all frames."""
        read = self.attend(tokens(self.query(maps)[:, None]), tokens(key), tokens(value))
        attended: Tensor = self.gamma * read.mT.unflatten(2, maps.shape[2:]) + maps
        return attended


class ChannelAttention(SpecialStart):
    """gamma x (channels mixed by softmax(largest of the row - likeness)) + the map."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Be the identity at first."""
        nn.init.zeros_(self.gamma)

    @staticmethod
    def likeness(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
        """Multiply all pairs of channels and sum over places, in float32 at least: the sums leave half types' range."""
        kind = maps.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            rows = maps.flatten(2)
            rows = rows if rows.dtype == torch.float64 else rows.float()
            return torch.bmm(rows, rows.mT)

    def forward(self, maps: Float[Tensor, "b c h w"], likeness: Float[Tensor, "b t c c"]) -> Float[Tensor, "b c h w"]:
        """Mix the channels by their likeness in all frames."""
        mean = likeness.mean(1)
        weights = (mean.amax(-1, keepdim=True) - mean).softmax(-1).to(maps.dtype)
        return self.gamma * torch.bmm(weights, maps.flatten(2)).view_as(maps) + maps


class Dual(TemporalAttention):
    """A branch for places and one for channels, each between two convolutions, summed."""

    exact = ("likeness",)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        key_channels: int | None = None,
        includes_current: bool = True,
        narrow_kernel: int = 1,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.enter_position, self.enter_channel = (
            conv_norm(in_channels, channels, size=narrow_kernel) for _ in range(2)
        )
        self.position, self.channel = PositionAttention(channels, key_channels=key_channels), ChannelAttention()
        self.leave_position, self.leave_channel = (conv_norm(channels, channels, size=3) for _ in range(2))

    def prepare(self, frame: Features) -> Maps:
        """Narrow the map twice, once for each branch."""
        return {"position": self.enter_position(frame.high), "channel": self.enter_channel(frame.high)}

    def remember(self, prepared: Maps) -> Maps:
        """Project keys and values; compute the likeness of channels, which stands for the whole map."""
        place = prepared["position"]
        likeness = self.channel.likeness(prepared["channel"])
        return {"key": self.position.key(place), "value": self.position.value(place), "likeness": likeness}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read by both branches."""
        places = self.position(prepared["position"], frames["key"], frames["value"])
        channels = self.channel(prepared["channel"], frames["likeness"])
        summed: Tensor = self.leave_position(places) + self.leave_channel(channels)
        return summed

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """Places read all places of all frames; what channels take from channels has no place."""
        position = self.position
        query = position.query(prepared["position"])
        return (Reading.of_frames(ALL_PLACES, position.attend.weights_at(query, frames["key"], place)),)

    def prepare_macs(self, extent: Extent) -> int:
        """Count 2 n C channels."""
        return extent.places * weights_in(self.enter_position, self.enter_channel)

    def remember_macs(self, extent: Extent) -> int:
        """Count n channels (ck + channels), and n channels^2 for the likeness."""
        return extent.places * (weights_in(self.position.key, self.position.value) + self.channels**2)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """Count n channels ck, t n^2 (ck + channels), n channels^2, and 18 n channels^2."""
        n, position = extent.places, self.position
        places = frames * n**2 * (position.key_channels + self.channels)
        return places + n * (weights_in(position.query, self.leave_position, self.leave_channel) + self.channels**2)


class DualConfig(AttentionBlockConfig):
    """Dual attention: places read all places, channels read all channels."""

    kind: Literal["dual"] = "dual"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output, and of both branches."""
    key_channels: PositiveInt | None = None
    """Width of queries and keys of places; unset is an eighth of `channels`."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map of every frame; 3 in DANet, which costs nine times as much."""
    include_current: bool = True
    """Whether the current frame is read beside those in memory."""

    def build(self, in_channels: int, low_channels: int | None = None) -> Dual:
        """Build the block; the stage before the last is not read."""
        return Dual(
            in_channels,
            self.channels,
            key_channels=self.key_channels,
            includes_current=self.include_current,
            narrow_kernel=self.narrow_kernel,
        )
