"""Asymmetric non-local attention: all places of a map read the cells of a pyramid instead of all places.

Source: Zhu et al., arXiv 1908.07678; conventions of MendelXu/ANN@f4eabeb: convolutions before a batch norm have a bias,
keys and values are pooled after their projections, scores are scaled by 1/sqrt(ck), the projection of what was read
starts at zero, dropout of whole channels at the end.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from hfseg.models.attention.attend import Attend, tokens
from hfseg.models.attention.contract import AttentionBlockConfig, Maps, Reading, SpecialStart
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.pyramid import ANN_GRIDS, Grids, bin_frames, bin_spans, cells, sample

DROPOUT = 0.05


class AsymmetricAttention(SpecialStart):
    """Read pyramid cells of `low` maps for each place of a `high` map and fuse what was read with it.

    Queries have a projection of their own (AFNB), or that of the keys (APNB, where low and high are one map); `relu`
    says whether a ReLU ends the block. The cells of all frames stand side by side under one softmax, t x 110 of them,
    or `time_bins` x 110.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        *,
        key_channels: int,
        value_channels: int,
        grids: Sequence[int],
        time_bins: int | None = None,
        own_query: bool,
        relu: bool,
    ) -> None:
        super().__init__()
        self.grids, self.time_bins = tuple(grids), time_bins
        self.width = key_channels + value_channels
        self.key = conv_norm(low_channels, key_channels, bias=True)
        self.query = conv_norm(high_channels, key_channels, bias=True) if own_query else None
        self.value = nn.Conv2d(low_channels, value_channels, 1)
        self.attend = Attend(scale=key_channels**-0.5)
        self.context = nn.Conv2d(value_channels, high_channels, 1)
        self.fuse = conv_norm(2 * high_channels, high_channels, bias=True, relu=relu)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let nothing that is read reach the output at first."""
        nn.init.zeros_(self.context.weight)
        if self.context.bias is not None:
            nn.init.zeros_(self.context.bias)

    def queries(self, high: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Project queries."""
        projected: Tensor = self.key(high) if self.query is None else self.query(high)
        return projected

    def remember(self, key: Float[Tensor, "b d h w"], low: Float[Tensor, "b c h w"]) -> Maps:
        """Sample keys, which are projected already, and values: 110 of each per frame."""
        return {"key": sample(key, self.grids), "value": sample(self.value(low), self.grids)}

    def forward(
        self, high: Float[Tensor, "b c h w"], query: Float[Tensor, "b d h w"], frames: Maps
    ) -> Float[Tensor, "b c h w"]:
        """Read the cells of frames, project what was read, and fuse: 1 x 1 over [context, high], norm, dropout."""
        key, value = (bin_frames(frames[name], self.time_bins) for name in ("key", "value"))
        read = self.attend(tokens(query[:, None]), tokens(key), tokens(value))
        context = self.context(read.mT.unflatten(2, high.shape[2:]))
        fused: Tensor = self.dropout(self.fuse(torch.cat([context, high], dim=1)))
        return fused

    def reading(self, query: Float[Tensor, "1 d h w"], frames: Maps, place: tuple[int, int]) -> Reading:
        """Say how much one place takes of the cells of every grid and frame."""
        key = bin_frames(frames["key"], self.time_bins)
        weights = self.attend.weights_at(query, key, place)
        grids = weights.split([side**2 for side in self.grids], dim=1)
        laid = tuple(each.unflatten(1, (side, side)) for each, side in zip(grids, self.grids, strict=True))
        return Reading("cells of a pyramid", laid, bin_spans(frames["key"].shape[1], self.time_bins))

    def alone(
        self, high: Float[Tensor, "b c h w"], low: Float[Tensor, "b c_low h_low w_low"]
    ) -> Float[Tensor, "b c h w"]:
        """Read the low map of the same frame."""
        own = {name: each[:, None] for name, each in self.remember(self.key(low), low).items()}
        fused: Tensor = self(high, self.queries(high), own)
        return fused

    def query_macs(self, places: int) -> int:
        """Count those of the projection of queries: n C ck."""
        return places * weights_in(self.key if self.query is None else self.query)

    def read_macs(self, places: int, *, frames: int) -> int:
        """Count those of what follows it: n t S (ck + cv) and n [cv C + 2 C^2]."""
        kept = frames if self.time_bins is None else min(frames, self.time_bins)
        return places * (kept * cells(self.grids) * self.width + weights_in(self.context, self.fuse))


class AsymmetricConfig(AttentionBlockConfig):
    """What the blocks made of asymmetric attention have in common."""

    key_channels: PositiveInt = 256
    """Width of queries and keys."""
    value_channels: PositiveInt = 256
    """Width of values."""
    pool_sizes: Grids = ANN_GRIDS
    """Cells on a side of each grid of the pyramid."""
    time_bins: PositiveInt | None = None
    """Bins along time that frames are averaged to; unset gives each frame cells of its own."""

    @property
    def sizes(self) -> dict[str, Any]:
        """These settings, as the blocks take them."""
        return {
            "key_channels": self.key_channels,
            "value_channels": self.value_channels,
            "grids": self.pool_sizes,
            "time_bins": self.time_bins,
        }
