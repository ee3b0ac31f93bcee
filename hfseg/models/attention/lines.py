"""Criss-cross attention: every place reads the lines through it, and in a few passes, everything.

Source: Huang et al., CCNet, arXiv 1811.11721 and its journal form, with lines through time. The published module of the
latter (speedinghzl/CCNet, branch pure-python@e54a977) mixes places and is not followed; this is its paper's form, in
which a place stands once among the h + w + t - 2 it reads, equal to Serge-weihao/CCNet-Pure-Pytorch@ff51a27.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hfseg.models.attention.contract import SpecialStart


def read_lines(
    query: Float[Tensor, "b d f h w"], key: Float[Tensor, "b d t h w"], value: Float[Tensor, "b c t h w"]
) -> Float[Tensor, "b c f h w"]:
    """Let each place of the last f of t frames read its row, its column and its line through time; itself once.

    One softmax over all three lines; scores are not scaled. No map larger than places x (h + w + t) is made.
    """
    count, total, height = query.shape[2], key.shape[2], query.shape[3]
    near_key, near_value = key[:, :, total - count :], value[:, :, total - count :]
    rows = torch.einsum("bcthw,bcthv->bthwv", query, near_key)
    columns = torch.einsum("bcthw,bctgw->bthwg", query, near_key)
    parts = [rows, _without(columns, torch.eye(height, dtype=torch.bool, device=query.device)[None, :, None])]
    if total > 1:  # a line of one frame holds the place alone, which its row holds too
        times = torch.einsum("bcfhw,bcthw->bfhwt", query, key)
        own = torch.eye(total, dtype=torch.bool, device=query.device)[total - count :]
        parts.append(_without(times, own[:, None, None]))
    weights = torch.cat(parts, dim=-1).softmax(-1).to(value.dtype).split([part.shape[-1] for part in parts], dim=-1)
    read = torch.einsum("bthwv,bcthv->bcthw", weights[0], near_value)
    read = read + torch.einsum("bthwg,bctgw->bcthw", weights[1], near_value)
    return read + torch.einsum("bfhwt,bcthw->bcfhw", weights[2], value) if total > 1 else read


class CrissCross(SpecialStart):
    """One pass: gamma x (what the lines say) + the map; gamma starts at 0. 1 x 1 convolutions with bias.

    Passes that follow each other share the module. Keys are an eighth as wide as the maps, values as wide.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.key_channels = channels, narrow_width(channels)
        self.query, self.key = (nn.Conv2d(channels, self.key_channels, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """Be the identity at first."""
        nn.init.zeros_(self.gamma)

    def forward(self, maps: Float[Tensor, "b c t h w"], *, last: int | None = None) -> Float[Tensor, "b c f h w"]:
        """Pass over all frames, or over the `last` ones only."""
        kept = maps[:, :, -(last or maps.shape[2]) :]
        read = read_lines(_each(self.query, kept), _each(self.key, maps), _each(self.value, maps))
        return self.gamma * read + kept

    def weights_at(self, maps: Float[Tensor, "1 c t h w"], place: tuple[int, int]) -> Float[Tensor, "t h w"]:
        """Give the weights by which one place (row, column) of the last frame reads its lines; NaN beside them."""
        row, column = place
        query = self.query(maps[:, :, -1])[0, :, row, column]
        scores = torch.einsum("d,dthw->thw", query, _each(self.key, maps)[0])
        seen = torch.zeros_like(scores, dtype=torch.bool)
        seen[:, row, column] = seen[-1, row] = seen[-1, :, column] = True
        weights = scores.masked_fill(~seen, -torch.inf).flatten().softmax(0).view(scores.shape)
        return weights.masked_fill(~seen, torch.nan)

    def macs(self, size: tuple[int, int], *, frames: int = 1, last: int | None = None) -> int:
        """Count T n [C (2 ck + C) + (h + w + T) (ck + C)] for all of T frames; h + w for one."""
        n, count = size[0] * size[1], last or frames
        lines = sum(size) + (frames if frames > 1 else 0)
        projections = (count + frames) * self.channels * self.key_channels + frames * self.channels**2
        return n * (projections + count * lines * (self.key_channels + self.channels))


def narrow_width(channels: int) -> int:
    """Give the width of queries and keys for maps of so many channels: an eighth, as in CCNet and DANet."""
    return max(1, channels // 8)


def _each(conv: nn.Module, maps: Float[Tensor, "b c t h w"]) -> Tensor:
    """Apply a 1 x 1 convolution to all frames."""
    applied: Tensor = conv(maps.flatten(2, 3)).unflatten(2, maps.shape[2:4])
    return applied


def _without(scores: Float[Tensor, "b t h w n"], own: Bool[Tensor, "#t #h #w n"]) -> Float[Tensor, "b t h w n"]:
    masked: Tensor = scores.masked_fill(own, -torch.inf)
    return masked
