"""Temporal memory attention: every place of the current frame reads all places of all earlier frames.

Source: Wang et al., Temporal Memory Attention for Video Semantic Segmentation, arXiv 2102.08643; conventions of
wanghao9610/TMANet@1fc4784: scores are not scaled, one softmax over all places of all frames, no projection, gate or
residual path after it. Layers start as PyTorch's do.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from hfseg.models.attention.attend import Attend, tokens
from hfseg.models.attention.contract import (
    ALL_PLACES,
    AttentionBlockConfig,
    Extent,
    Features,
    Maps,
    Reading,
    TemporalAttention,
)
from hfseg.models.attention.encoders import KeyValueEncoder, SlotEncoders
from hfseg.models.attention.layers import conv_norm, weights_in


class NonLocal(TemporalAttention):
    """Read memory values by key, put them behind the query's own value, and fuse both by a 3 x 3 convolution.

    Frames go through one memory encoder whatever their age, so any number of them can be read and their keys and
    values are what is remembered. With `slots`, each age has an encoder of its own as in TMANet: then only the
    features can be remembered, and there are at most that many frames. The query has an encoder of its own in both.
    In image mode the frame reads itself through the memory encoder (our definition; TMANet has no such mode).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        key_channels: int,
        value_channels: int,
        scaled: bool = False,
        slots: int | None = None,
        includes_current: bool = False,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.key_channels, self.value_channels = key_channels, value_channels
        self.query = KeyValueEncoder(in_channels, key_channels=key_channels, value_channels=value_channels)
        self.memory: KeyValueEncoder | SlotEncoders = (
            KeyValueEncoder(in_channels, key_channels=key_channels, value_channels=value_channels)
            if slots is None
            else SlotEncoders(in_channels, slots=slots, key_channels=key_channels, value_channels=value_channels)
        )
        self.attend = Attend(scale=key_channels**-0.5 if scaled else 1.0)
        self.bottleneck = conv_norm(2 * value_channels, channels, size=3)

    def prepare(self, frame: Features) -> Maps:
        """Take the last stage's map; current and remembered frames have nothing more in common."""
        return {"high": frame.high}

    def remember(self, prepared: Maps) -> Maps:
        """Encode keys and values; with weights for each slot, keep the map until the slot is known."""
        if isinstance(self.memory, SlotEncoders):
            return prepared
        key, value = self.memory(prepared["high"])
        return {"key": key, "value": value}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Encode the query, read, fuse."""
        key, value = self._encoded(frames)
        query_key, query_value = self.query(prepared["high"])
        fused: Tensor = self.bottleneck(torch.cat([query_value, self.read_values(query_key, key, value)], dim=1))
        return fused

    def readings(self, prepared: Maps, frames: Maps, place: tuple[int, int]) -> tuple[Reading, ...]:
        """One softmax over all places of all frames."""
        query, _ = self.query(prepared["high"])
        return (Reading.of_frames(ALL_PLACES, self.attend.weights_at(query, self._encoded(frames)[0], place)),)

    def _encoded(self, frames: Maps) -> tuple[Tensor, Tensor]:
        """Give keys and values of all frames."""
        if isinstance(self.memory, SlotEncoders):
            key, value = self.memory(frames["high"])
            return key, value
        return frames["key"], frames["value"]

    def read_values(
        self,
        query_key: Float[Tensor, "b d h w"],
        key: Float[Tensor, "b t d h2 w2"],
        value: Float[Tensor, "b t v h2 w2"],
    ) -> Float[Tensor, "b v h w"]:
        """Average memory values for each place of the query: the memory read itself."""
        read = self.attend(tokens(query_key[:, None]), tokens(key), tokens(value))
        values: Tensor = read.mT.unflatten(2, query_key.shape[2:])
        return values

    def prepare_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def remember_macs(self, extent: Extent) -> int:
        """Count n [C (ck + cv) + 9 (ck^2 + cv^2)]; nothing with weights for each slot."""
        return 0 if isinstance(self.memory, SlotEncoders) else extent.places * weights_in(self.memory)

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """The query's encoder as above, t n^2 (ck + cv) and 18 n cv channels; with slots, their encoders too."""
        n = extent.places
        late = self.memory.macs(n, frames=frames) if isinstance(self.memory, SlotEncoders) else 0
        read = frames * n**2 * (self.key_channels + self.value_channels)
        return late + n * weights_in(self.query, self.bottleneck) + read


class NonLocalConfig(AttentionBlockConfig):
    """Temporal memory attention of TMANet: every place reads every place of memory."""

    kind: Literal["nonlocal"] = "nonlocal"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output."""
    key_channels: PositiveInt = 64
    """Width of queries and keys."""
    value_channels: PositiveInt = 256
    """Width of values."""
    scaled: bool = False
    """Whether scores are divided by the square root of the key width; TMANet's are not."""
    slots: PositiveInt | None = None
    """Frames with encoder weights of their own, as in TMANet; unset shares one encoder among frames of any age."""
    include_current: bool = False
    """Whether the current frame stands in memory too; in TMANet it never does."""

    def build(self, in_channels: int, low_channels: int | None = None) -> NonLocal:
        """Build the block; the stage before the last is not read."""
        return NonLocal(
            in_channels,
            self.channels,
            key_channels=self.key_channels,
            value_channels=self.value_channels,
            scaled=self.scaled,
            slots=self.slots,
            includes_current=self.include_current,
        )
