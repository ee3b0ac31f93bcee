"""The non-local block of images, beside a residual path.

Source: Wang et al., Non-local Neural Networks, arXiv 1711.07971; the block of open-mmlab/mmcv@a8073c7. How it sees
memory is our definition: keys and values are those of all frames, under one softmax. The convolutions that published
heads put after it are left out, as it stands beside a residual path.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt, model_validator
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

INIT_STD = 0.01


class ResidualAttention(SpecialStart):
    """The map + norm(projection of what was read); convolutions are 1 x 1, those before the read with bias.

    With `softmax` false, scores are divided by the number of places read instead ("dot product"). Then values are
    multiplied by keys first, which is the same and never makes a map of all scores. Weights start normal with a
    deviation of 0.01; the norm's at zero, which makes the block the identity.
    """

    def __init__(self, channels: int, inner_channels: int, *, scaled: bool, softmax: bool) -> None:
        super().__init__()
        self.softmax = softmax
        self.query, self.key, self.value = (nn.Conv2d(channels, inner_channels, 1) for _ in range(3))
        self.attend = Attend(scale=inner_channels**-0.5 if scaled else 1.0)
        self.project, self.norm = nn.Conv2d(inner_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Be the identity at first."""
        for conv in (self.query, self.key, self.value):
            nn.init.normal_(conv.weight, std=INIT_STD)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(
        self,
        maps: Float[Tensor, "b c h w"],
        key: Float[Tensor, "b t d h2 w2"],
        value: Float[Tensor, "b t d h2 w2"],
    ) -> Float[Tensor, "b c h w"]:
        """Read all places of all frames."""
        queries, keys, values = tokens(self.query(maps)[:, None]), tokens(key), tokens(value)
        if self.softmax:
            read = self.attend(queries, keys, values)
        else:
            read = torch.bmm(queries, torch.bmm(keys.mT, values) / keys.shape[1])
        projected: Tensor = maps + self.norm(self.project(read.mT.unflatten(2, maps.shape[2:])))
        return projected

    def macs(self, places: int, *, frames: int) -> int:
        """Count n 2 m C and, per frame, 2 n^2 m; without softmax t n m^2 and n m^2. Keys and values are left out."""
        inner = self.query.weight.shape[0]
        products = 2 * frames * places**2 * inner if self.softmax else (frames + 1) * places * inner**2
        return products + places * weights_in(self.query, self.project)


class ResidualNonLocal(TemporalAttention):
    """Narrow the map, and read all places of all frames with it."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        inner_channels: int,
        scaled: bool = True,
        softmax: bool = True,
        includes_current: bool = True,
        narrow_kernel: int = 1,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.narrow = conv_norm(in_channels, channels, size=narrow_kernel)
        self.attention = ResidualAttention(channels, inner_channels, scaled=scaled, softmax=softmax)

    def prepare(self, frame: Features) -> Maps:
        """Narrow the map."""
        return {"map": self.narrow(frame.high)}

    def remember(self, prepared: Maps) -> Maps:
        """Project keys and values."""
        return {"key": self.attention.key(prepared["map"]), "value": self.attention.value(prepared["map"])}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read all frames."""
        read: Tensor = self.attention(prepared["map"], frames["key"], frames["value"])
        return read

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """One softmax over all places of all frames; without it there are no weights."""
        attention = self.attention
        if not attention.softmax:
            return ()
        query = attention.query(prepared["map"])
        return (Reading.of_frames(ALL_PLACES, attention.attend.weights_at(query, frames["key"], place)),)

    def prepare_macs(self, extent: Extent) -> int:
        """Count n C channels."""
        return extent.places * weights_in(self.narrow)

    def remember_macs(self, extent: Extent) -> int:
        """2 n channels m."""
        return extent.places * weights_in(self.attention.key, self.attention.value)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """The read with its projections."""
        return self.attention.macs(extent.places, frames=frames)


class ResidualNonLocalConfig(AttentionBlockConfig):
    """Non-local block of images with a residual path, over the places of all frames."""

    kind: Literal["nonlocal_residual"] = "nonlocal_residual"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output, and of the map that is read with."""
    inner_channels: PositiveInt | None = None
    """Width of queries, keys and values; unset is half of `channels`."""
    softmax: bool = True
    """Whether scores go through a softmax; otherwise they are divided by the number of places."""
    scaled: bool | None = None
    """Whether scores are divided by the square root of their width before the softmax; unset is yes."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map of every frame; 3 in published heads, at nine times the cost."""
    include_current: bool = True
    """Whether the current frame is read beside those in memory."""

    @model_validator(mode="after")
    def _used(self) -> "ResidualNonLocalConfig":
        if not self.softmax and self.scaled is not None:
            raise ValueError("`scaled` has no effect without the softmax\n\nhint: leave it out")
        return self

    def build(self, in_channels: int, low_channels: int | None = None) -> ResidualNonLocal:
        """Build the block; the stage before the last is not read."""
        return ResidualNonLocal(
            in_channels,
            self.channels,
            inner_channels=self.inner_channels or max(1, self.channels // 2),
            scaled=self.scaled is not False,
            softmax=self.softmax,
            includes_current=self.include_current,
            narrow_kernel=self.narrow_kernel,
        )
