"""Pyramid pooling: averages over the cells of coarse grids beside the map itself.

Source: Zhao et al., Pyramid Scene Parsing Network, arXiv 1612.01105; layers as in mmsegmentation. How it sees memory is
our definition: each cell's average goes over the frames too, so t equal frames are one frame, and the order of frames
does not matter. Layers start as PyTorch's do. In training, a batch of one is refused by the batch norm over the 1 x 1
grid, as in every PSPNet.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from hfseg.models.attention.contract import AttentionBlockConfig, Extent, Features, Maps, TemporalAttention
from hfseg.models.attention.layers import conv_norm, weights_in
from hfseg.models.attention.pyramid import Grids, cells, sample

PSP_GRIDS = (1, 2, 3, 6)
"""Cells on a side of each grid: 50 in all."""


class Psp(TemporalAttention):
    """Average cells over frames, narrow each grid by a 1 x 1 convolution, resize it to the map, fuse by a 3 x 3.

    A frame is remembered as its 50 averages.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        grids: Sequence[int] = PSP_GRIDS,
        align_corners: bool = False,
        includes_current: bool = True,
    ) -> None:
        super().__init__(channels, includes_current=includes_current)
        self.grids, self.align_corners = tuple(grids), align_corners
        self.narrow = nn.ModuleList(conv_norm(in_channels, channels) for _ in self.grids)
        self.bottleneck = conv_norm(in_channels + len(self.grids) * channels, channels, size=3)

    def prepare(self, frame: Features) -> Maps:
        """Take the last stage's map."""
        return {"high": frame.high}

    def remember(self, prepared: Maps) -> Maps:
        """Average the cells of a frame."""
        return {"cells": sample(prepared["high"], self.grids)}

    def recall(self, prepared: Maps, frames: Maps) -> Float[Tensor, "b c h w"]:
        """Average over frames, spread over the map, and fuse with it."""
        high = prepared["high"]
        grids = frames["cells"].mean(1).split([side**2 for side in self.grids], dim=2)
        spread = [
            F.interpolate(
                narrow(grid.unflatten(2, (side, side))),
                high.shape[2:],
                mode="bilinear",
                align_corners=self.align_corners,
            )
            for narrow, grid, side in zip(self.narrow, grids, self.grids, strict=True)
        ]
        fused: Tensor = self.bottleneck(torch.cat([high, *spread], dim=1))
        return fused

    def prepare_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def remember_macs(self, extent: Extent) -> int:
        """Nothing."""
        return 0

    def recall_macs(self, extent: Extent, *, frames: int) -> int:
        """S C D and 9 n (C + P D) D, however many frames there are."""
        each = weights_in(self.narrow) // len(self.grids)
        return cells(self.grids) * each + extent.places * weights_in(self.bottleneck)


class PspConfig(AttentionBlockConfig):
    """Pyramid pooling: averages over coarse grids, of all frames, beside the map of the current one."""

    kind: Literal["psp"] = "psp"
    """Picks this block."""
    channels: PositiveInt = 512
    """Width of the output, and of each grid."""
    pool_sizes: Grids = PSP_GRIDS
    """Cells on a side of each grid of the pyramid."""
    align_corners: bool = False
    """Whether the corners of grids lie on the corners of the map when they are resized."""
    include_current: bool = True
    """Whether the current frame is averaged with those in memory."""

    def build(self, in_channels: int, low_channels: int | None = None) -> Psp:
        """Build the block; the stage before the last is not read."""
        return Psp(
            in_channels,
            self.channels,
            grids=self.pool_sizes,
            align_corners=self.align_corners,
            includes_current=self.include_current,
        )
