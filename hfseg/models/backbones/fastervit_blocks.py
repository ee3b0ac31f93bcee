"""The layers of FasterViT; names of parameters as in the published weights.

Source: Hatamizadeh et al., FasterViT: Fast Vision Transformers with Hierarchical Attention, arXiv 2306.06189.
Written from the paper and from the outputs of a network with random weights; the authors' code and weights are under a
non-commercial licence.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, pad, scaled_dot_product_attention
from transformers.modeling_layers import GradientCheckpointingLayer

from hfseg.models.backbones.drop_path import DropPath
from hfseg.models.backbones.fastervit_positions import PairPosition, PlacePosition

CONV_LEVELS = 2
"""Number of levels of convolutions; those of attention come after them."""


def split_windows(grid: Float[Tensor, "b h w c"], size: int) -> Float[Tensor, "b n t c"]:
    """Cut a map, whose sides are multiples of `size`, into `n` windows of `t` = `size`^2 tokens."""
    tiles: Tensor = grid.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Float[Tensor, "b n t c"], *, rows: int, size: int) -> Float[Tensor, "b h w c"]:
    """Put windows back in `rows` rows: the inverse of `split_windows`."""
    tiles: Tensor = windows.unflatten(2, (size, size)).unflatten(1, (rows, -1))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Attention(nn.Module):
    """Multi-head attention among all tokens of a sequence."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.pos_emb_funct = PairPosition(num_heads)

    def forward(
        self, tokens: Float[Tensor, "b n c"], grid: tuple[int, int], *, output_attentions: bool = False
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b heads n n"] | None]:
        """Attend; the last tokens lie on `grid` (height, width), those before it have no place and no position term."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        placeless = tokens.shape[1] - grid[0] * grid[1]
        bias = pad(self.pos_emb_funct(*grid), (placeless, 0, placeless, 0)).to(query.dtype)[None]
        probabilities = None
        if output_attentions:
            probabilities = (query @ key.mT * query.shape[-1] ** -0.5 + bias).softmax(dim=-1)
            context = probabilities @ value
        else:
            context = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(context.transpose(1, 2).flatten(2)), probabilities


class Mlp(nn.Module):
    """The feed-forward part."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(ratio * dim))
        self.fc2 = nn.Linear(int(ratio * dim), dim)

    def forward(self, tokens: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Widen, bend and narrow every token by itself."""
        forwarded: Tensor = self.fc2(gelu(self.fc1(tokens)))
        return forwarded


class BranchEnd(nn.Module):
    """The end of a residual branch: layer scale (arXiv 2103.17239) where the model has it, then drop path."""

    def __init__(self, dim: int, *, scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.gamma = None if scale is None else nn.Parameter(torch.full((dim,), float(scale)))
        self.drop_path = DropPath(drop_path)

    def forward(self, branch: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Give what is added to the residual path."""
        dropped: Tensor = self.drop_path(branch if self.gamma is None else self.gamma * branch)
        return dropped


class AttentionBlock(GradientCheckpointingLayer):
    """Attention inside windows; before it, where there are carrier tokens, attention among those of the whole image.

    Carrier tokens summarize the windows, `carrier_size`^2 for each. They attend to each other, then join the tokens of
    their window, and leave it with what they have seen: the paper's hierarchical attention. Their last state is not
    added to the map.
    """

    def __init__(self, config: Any, *, level: int, has_carriers: bool, drop_path: float) -> None:
        super().__init__()
        dim, num_heads = config.embed_dim * 2**level, config.num_heads[level - CONV_LEVELS]
        end: dict[str, Any] = {"scale": config.layer_scale_init_value, "drop_path": drop_path}
        self.window_size, self.carrier_size = config.window_size[level - CONV_LEVELS], config.carrier_size
        self.pos_embed = PlacePosition(dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, num_heads), Mlp(dim, config.mlp_ratio)
        self.attn_end, self.mlp_end = BranchEnd(dim, **end), BranchEnd(dim, **end)
        if has_carriers:
            self.hat_pos_embed = PlacePosition(dim)
            self.hat_norm1, self.hat_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.hat_attn, self.hat_mlp = Attention(dim, num_heads), Mlp(dim, config.mlp_ratio)
            self.hat_attn_end, self.hat_mlp_end = BranchEnd(dim, **end), BranchEnd(dim, **end)

    def forward(
        self,
        windows: Float[Tensor, "b n t c"],
        carriers: Float[Tensor, "b gh gw c"] | None,
        output_attentions: bool = False,
    ) -> tuple[Float[Tensor, "b n t c"], Float[Tensor, "b gh gw c"] | None, Tensor | None]:
        """Give the windows, the carrier tokens, and the windows' attention "b*n heads s s" when asked for.

        The first of its `s` places are the window's carrier tokens.
        """
        grid = (self.window_size, self.window_size)
        tokens = windows + self.pos_embed(*grid).flatten(0, 1)
        if carriers is not None:
            carriers = self._exchange(carriers)
            tokens = torch.cat([split_windows(carriers, self.carrier_size), tokens], dim=2)
        attended, probabilities = self.attn(self.norm1(tokens).flatten(0, 1), grid, output_attentions=output_attentions)
        tokens = tokens + self.attn_end(attended.unflatten(0, tokens.shape[:2]))
        tokens = tokens + self.mlp_end(self.mlp(self.norm2(tokens)))
        if carriers is None:
            return tokens, None, probabilities
        own, rows = self.carrier_size**2, carriers.shape[1] // self.carrier_size
        carriers = join_windows(tokens[:, :, :own], rows=rows, size=self.carrier_size)
        return tokens[:, :, own:], carriers, probabilities

    def _exchange(self, carriers: Float[Tensor, "b gh gw c"]) -> Float[Tensor, "b gh gw c"]:
        """Let all carrier tokens of an image attend to each other."""
        grid = (carriers.shape[1], carriers.shape[2])
        carriers = carriers + self.hat_pos_embed(*grid)
        attended, _ = self.hat_attn(self.hat_norm1(carriers).flatten(1, 2), grid)
        carriers = carriers + self.hat_attn_end(attended.unflatten(1, grid))
        forwarded: Tensor = self.hat_mlp_end(self.hat_mlp(self.hat_norm2(carriers)))
        return carriers + forwarded


class CarrierTokenizer(nn.Module):
    """Make carrier tokens: a depthwise convolution, then a mean over places around each.

    Along an axis of `m` windows of size `w` the `k m` tokens are `w // k` places apart, and each is the mean of as many
    places as bring the last one to the edge: `m + 3` for `w` = 7 and `k` = 2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, features: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b gh gw c"]:
        """Make `grid` (height, width) carrier tokens of a map of whole windows."""
        lengths = features.shape[2:]
        strides = [length // count for length, count in zip(lengths, grid, strict=True)]
        kernel = [length - (count - 1) * stride for length, count, stride in zip(lengths, grid, strides, strict=True)]
        return avg_pool2d(self.pos_embed(features), kernel, strides).permute(0, 2, 3, 1)


class ConvBlock(nn.Module):
    """Two convolutions beside a residual path.

    Never recomputed by gradient checkpointing: that would move the statistics of its batch norms twice.
    """

    def __init__(self, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the branch."""
        branch: Tensor = self.drop_path(self.norm2(self.conv2(gelu(self.norm1(self.conv1(features))))))
        return features + branch


class Stem(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(config.num_channels, config.stem_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(config.stem_channels, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(config.stem_channels, config.embed_dim, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(config.embed_dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, pixel_values: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b c h w"]:
        """Give features at stride 4."""
        embedded: Tensor = self.conv_down(pixel_values)
        return embedded


class Downsample(nn.Module):
    """A norm over channels and a convolution of stride 2 to twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_twice h_half w_half"]:
        """Halve the resolution, rounded up."""
        normalized = self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        reduced: Tensor = self.reduction(normalized)
        return reduced
