"""Criss-cross attention over clips: in space alone, in space and then in time, or along all three lines at once.

Source: Huang et al., CCNet, arXiv 1811.11721; its way through time is `full`, that of `separate` is our definition.
CCNet has two more 3 x 3 convolutions after the attention, which would cost more than all of it; they are left out, as
the attention stands beside a residual path.
"""

from math import log
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.models.attention.contract import (
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    SpecialStart,
    TemporalAttention,
)
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.lines import CrissCross, narrow_width


class SpaceCrissCross(TemporalAttention):
    """Criss-cross passes inside the current frame; memory is not read. The published attention in two dimensions."""

    reads_memory = False

    def __init__(self, in_channels: int, channels: int, *, recurrence: int, narrow_kernel: int = 1) -> None:
        super().__init__(channels, includes_current=True)
        self.recurrence = recurrence
        self.narrow = conv_norm(in_channels, channels, size=narrow_kernel)
        self.attention = CrissCross(channels)

    def prepare(self, frame: Features) -> Maps:
        """Narrow the map and pass over it."""
        return {"map": passed(self.attention, self.narrow(frame.high), self.recurrence)}

    def remember(self, prepared: Maps) -> Maps:
        """Nothing."""
        return {}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Give the map after the passes."""
        return prepared["map"]

    def prepare_macs(self, extent: Extent) -> int:
        """Count n C channels, and the passes."""
        return extent.places * weights_in(self.narrow) + self.recurrence * self.attention.macs(extent.high)

    def remember_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """Nothing."""
        return 0


class TimeLine(SpecialStart):
    """Let each place read the same place of earlier frames and of its own, in which it counts for itself.

    A frame f is read in the share w_f exp(query . key_f) of all. Earlier frames have w = 1/t each; the current frame's
    is learned as a logarithm, and starts at 1. So t equal frames are one frame, and a still clip is an image.
    Values are projected after they are averaged, which is the same, as the weights sum to 1, and done once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.key_channels = channels, narrow_width(channels)
        self.query, self.key = (nn.Conv2d(channels, self.key_channels, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.current, self.gamma = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Be the identity at first, with the current frame weighing as much as all others."""
        nn.init.zeros_(self.current)
        nn.init.zeros_(self.gamma)

    def forward(
        self,
        maps: Float[Tensor, "b c h w"],
        keys: Float[Tensor, "b t d h w"],
        values: Float[Tensor, "b t c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """Read the line through every place; the last frame is the current one."""
        scores = torch.matmul(self.query(maps).flatten(2).mT[:, :, None], keys.flatten(3).permute(0, 3, 2, 1))
        shares = (scores + self._logs(keys.shape[1])).softmax(-1).to(values.dtype)
        averages = torch.matmul(shares, values.flatten(3).permute(0, 3, 1, 2))
        read: Tensor = self.gamma * self.value(averages[:, :, 0].mT.view_as(maps)) + maps
        return read

    def weights_at(
        self, maps: Float[Tensor, "1 c h w"], keys: Float[Tensor, "1 t d h w"], place: tuple[int, int]
    ) -> Float[Tensor, "t h w"]:
        """Give the shares in which one place (row, column) reads itself in every frame; NaN at all others."""
        row, column = place
        scores = keys[0, :, :, row, column] @ self.query(maps)[0, :, row, column]
        laid: Tensor = scores.new_full((len(scores), *maps.shape[2:]), torch.nan)
        laid[:, row, column] = (scores + self._logs(len(scores))).softmax(0)
        return laid

    def _logs(self, frames: int) -> Float[Tensor, " t"]:
        """Give the logarithms of the frames' weights, the current one last."""
        past = frames - 1
        return torch.cat([self.current.new_full((past,), -log(max(past, 1))), self.current])

    def macs(self, places: int, *, frames: int) -> int:
        """Count n [C ck + C^2 + T (ck + C)], the keys' projections left out."""
        widths = self.key_channels + self.channels
        return places * (self.channels * widths + frames * widths)


class SeparateCrissCross(TemporalAttention):
    """Criss-cross passes inside every frame, then one read along time with the current frame weighted.

    Our definition of memory. The passes see one frame alone, so they are made once per frame of a stream.
    """

    def __init__(self, in_channels: int, channels: int, *, recurrence: int, narrow_kernel: int = 1) -> None:
        super().__init__(channels, includes_current=True)
        self.recurrence = recurrence
        self.narrow = conv_norm(in_channels, channels, size=narrow_kernel)
        self.attention = CrissCross(channels)
        self.time = TimeLine(channels)

    def prepare(self, frame: Features) -> Maps:
        """Narrow the map and pass over it in space."""
        return {"map": passed(self.attention, self.narrow(frame.high), self.recurrence)}

    def remember(self, prepared: Maps) -> Maps:
        """Project keys; values are the map itself."""
        return {"key": self.time.key(prepared["map"]), "map": prepared["map"]}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Read along time."""
        read: Tensor = self.time(prepared["map"], frames["key"], frames["map"])
        return read

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """The line through time; each cell in it has read its own frame before."""
        return (
            Reading.of_frames("the same place in time", self.time.weights_at(prepared["map"], frames["key"], place)),
        )

    def prepare_macs(self, extent: Extent) -> int:
        """Count n C channels, and the passes."""
        return extent.places * weights_in(self.narrow) + self.recurrence * self.attention.macs(extent.high)

    def remember_macs(self, extent: Extent) -> int:
        """Count n channels ck."""
        return extent.places * weights_in(self.time.key)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """The read along time."""
        return self.time.macs(extent.places, frames=frames)


class FullCrissCross(TemporalAttention):
    """Criss-cross passes along rows, columns and time at once, over earlier frames and the current one.

    The published three-dimensional form; the output is that of the current frame. All passes but the last go over all
    frames, so nothing but the narrowed maps can be remembered. Three passes bring every place to every other one. There
    is no notion of order in time.
    """

    def __init__(self, in_channels: int, channels: int, *, recurrence: int, narrow_kernel: int = 1) -> None:
        super().__init__(channels, includes_current=True)
        self.recurrence = recurrence
        self.narrow = conv_norm(in_channels, channels, size=narrow_kernel)
        self.attention = CrissCross(channels)

    def prepare(self, frame: Features) -> Maps:
        """Narrow the map."""
        return {"map": self.narrow(frame.high)}

    def remember(self, prepared: Maps) -> Maps:
        """Keep the narrowed map."""
        return {"map": prepared["map"]}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Pass over all frames, at last over the current one only."""
        read: Tensor = self.attention(self._before_last(frames), last=1)
        return read[:, :, -1]

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """The lines of the last pass; each cell in them has read its own lines in the passes before."""
        weights = self.attention.weights_at(self._before_last(frames), place)
        return (Reading.of_frames("row, column and time, last pass", weights),)

    def prepare_macs(self, extent: Extent) -> int:
        """Count n C channels."""
        return extent.places * weights_in(self.narrow)

    def remember_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """R - 1 passes over all frames, and one over the last."""
        one_pass, last_pass = (self.attention.macs(extent.high, frames=frames, last=last) for last in (None, 1))
        return (self.recurrence - 1) * one_pass + last_pass

    def _before_last(self, frames: Maps) -> Float[Tensor, "b c t h w"]:
        """Make all passes but the last, over all frames."""
        maps = frames["map"].transpose(1, 2)
        for _ in range(self.recurrence - 1):
            maps = self.attention(maps)
        return maps


def passed(attention: CrissCross, maps: Float[Tensor, "b c h w"], recurrence: int) -> Float[Tensor, "b c h w"]:
    """Pass over single frames."""
    clips = maps[:, :, None]
    for _ in range(recurrence):
        clips = attention(clips)
    return clips[:, :, 0]


class CrissCrossConfig(AttentionBlockConfig):
    """Criss-cross attention: every place reads the lines through it, in a few passes."""

    kind: Literal["criss_cross"] = "criss_cross"
    """Picks this block."""
    mode: Literal["space", "separate", "full"] = "separate"
    """`space` never reads memory; `separate` reads rows and columns, then the same place in time, the current frame
    weighted; `full` reads all three lines at once."""
    channels: PositiveInt = 512
    """Width of the output, and of the maps that are passed over."""
    narrow_kernel: Literal[1, 3] = 1
    """Side of the convolution that narrows the map of every frame; 3 in CCNet, which costs nine times as much."""
    recurrence: PositiveInt | None = None
    """Passes; unset is what connects all places: 2, and 3 in `full`."""

    def build(self, in_channels: int, low_channels: int | None = None) -> TemporalAttention:
        """Build the block; the stage before the last is not read."""
        blocks = {"space": (SpaceCrissCross, 2), "separate": (SeparateCrissCross, 2), "full": (FullCrissCross, 3)}
        block, passes = blocks[self.mode]
        built: TemporalAttention = block(
            in_channels, self.channels, recurrence=self.recurrence or passes, narrow_kernel=self.narrow_kernel
        )
        return built
