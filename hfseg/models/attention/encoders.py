"""Key and value encoders of TMANet's memory attention.

Source: Wang et al., Temporal Memory Attention for Video Semantic Segmentation, arXiv 2102.08643; layers as in
wanghao9610/TMANet@1fc4784.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hfseg.models.attention.layers import conv_norm, weights_in


class KeyValueEncoder(nn.Module):
    """Keys and values of a frame: each a 1 x 1, then a 3 x 3 convolution, both with batch norm and ReLU, no bias."""

    def __init__(self, in_channels: int, *, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.key, self.value = (
            nn.Sequential(conv_norm(in_channels, width), conv_norm(width, width, size=3))
            for width in (key_channels, value_channels)
        )

    def forward(self, high: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b v h w"]]:
        """Encode a frame, whatever its age."""
        return self.key(high), self.value(high)


class SlotEncoders(nn.Module):
    """An encoder for each age of a frame, the oldest first, as TMANet has them.

    The slots are those of the newest frames, so that fewer frames than slots leave the oldest ones out.
    """

    def __init__(self, in_channels: int, *, slots: int, key_channels: int, value_channels: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            KeyValueEncoder(in_channels, key_channels=key_channels, value_channels=value_channels) for _ in range(slots)
        )

    def forward(
        self, frames: Float[Tensor, "b t c h w"]
    ) -> tuple[Float[Tensor, "b t d h w"], Float[Tensor, "b t v h w"]]:
        """Encode the newest frames up to now, each by the weights of its slot.

        Raises:
            ValueError: there are more frames than slots.
        """
        count = frames.shape[1]
        if count > len(self.encoders):
            raise ValueError(f"{count} frames for {len(self.encoders)} memory slots with weights of their own")
        used = list(self.encoders)[len(self.encoders) - count :]
        encoded = [encoder(frame) for encoder, frame in zip(used, frames.unbind(1), strict=True)]
        key, value = (torch.stack(maps, dim=1) for maps in zip(*encoded, strict=True))
        return key, value

    def macs(self, places: int, *, frames: int) -> int:
        """Count the multiply-adds for so many frames of maps of so many places."""
        return frames * places * weights_in(self) // len(self.encoders)
