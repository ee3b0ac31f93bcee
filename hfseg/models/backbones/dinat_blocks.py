"""The layers of NAT and DiNAT, on maps of shape "b h w c"; names of parameters as in Transformers 4.

Source: Hassani et al., Neighborhood Attention Transformer, arXiv 2204.07143; Hassani and Shi, Dilated Neighborhood
Attention Transformer, arXiv 2209.15001. Weights of the authors are MIT-licensed.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from hfseg.models.backbones.drop_path import DropPath
from hfseg.models.ops import attention_probabilities, average_values, neighborhood_attention


class PatchEmbeddings(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        half = config.embed_dim // 2
        self.projection = nn.Sequential(
            nn.Conv2d(config.num_channels, half, 3, stride=2, padding=1),
            nn.Conv2d(half, config.embed_dim, 3, stride=2, padding=1),
        )

    def forward(self, pixel_values: Float[Tensor, "b c_in height width"]) -> Float[Tensor, "b h w c"]:
        """Give the patches, channels last."""
        projected: Tensor = self.projection(pixel_values)
        return projected.permute(0, 2, 3, 1)


class Embeddings(nn.Module):
    """The stem: patches at stride 4, normalized."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Float[Tensor, "b c_in height width"]) -> Float[Tensor, "b h w c"]:
        """Embed images."""
        embedded: Tensor = self.dropout(self.norm(self.patch_embeddings(pixel_values)))
        return embedded


class NeighborhoodAttention(nn.Module):
    """Multi-head attention of every place to the `kernel_size` x `kernel_size` places around it, `dilation` apart."""

    def __init__(self, config: Any, *, dim: int, num_heads: int, dilation: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"a width of {dim} cannot be divided among {num_heads} heads")
        self.num_heads, self.kernel_size, self.dilation = num_heads, config.kernel_size, dilation
        self.impl: str | None = None
        """Way of computing it, as in `hfseg.models.ops`; None leaves the choice to the operator."""
        self.rpb = None
        if getattr(config, "position_table", True):
            side = 2 * config.kernel_size - 1
            self.rpb = nn.Parameter(torch.zeros(num_heads, side, side))
        self.query = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.key = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.value = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, hidden_states: Float[Tensor, "b h w c"], *, output_attentions: bool = False
    ) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b heads h w places"] | None]:
        """Attend; the probabilities over the window's places come when they are asked for.

        They exist only where they are needed: when asked for, or for dropout in training. Otherwise nothing of their
        size is kept.
        """
        query, key, value = (self._heads(layer(hidden_states)) for layer in (self.query, self.key, self.value))
        window: dict[str, Any] = {"kernel_size": self.kernel_size, "dilation": self.dilation}
        probabilities = None
        if output_attentions or (self.training and self.dropout.p > 0):
            probabilities = self.dropout(attention_probabilities(query, key, rpb=self.rpb, **window))
            context = average_values(probabilities, value, **window)
        else:
            context = neighborhood_attention(query, key, value, rpb=self.rpb, impl=self.impl, **window)
        return context.permute(0, 2, 3, 1, 4).flatten(3), probabilities if output_attentions else None

    def _heads(self, projected: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads h w d"]:
        divided: Tensor = projected.unflatten(-1, (self.num_heads, -1))
        return divided.permute(0, 3, 1, 2, 4)


class AttentionOutput(nn.Module):
    """The projection after the heads."""

    def __init__(self, config: Any, *, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix the heads."""
        projected: Tensor = self.dropout(self.dense(hidden_states))
        return projected


class AttentionModule(nn.Module):
    """Attention and its projection, on maps of any size."""

    def __init__(self, config: Any, *, dim: int, num_heads: int, dilation: int) -> None:
        super().__init__()
        self.self = NeighborhoodAttention(config, dim=dim, num_heads=num_heads, dilation=dilation)
        self.output = AttentionOutput(config, dim=dim)

    def forward(
        self, hidden_states: Float[Tensor, "b h w c"], *, output_attentions: bool = False
    ) -> tuple[Float[Tensor, "b h w c"], Tensor | None]:
        """Attend on a map, padded by zeros at the right and the bottom to the reach of the window where it is smaller.

        The padded places take part, as in the published models; they are cut off afterwards. The probabilities are
        those of the padded map.
        """
        height, width = hidden_states.shape[1:3]
        reach = self.self.kernel_size * self.self.dilation
        padded = pad(hidden_states, (0, 0, 0, max(0, reach - width), 0, max(0, reach - height)))
        context, probabilities = self.self(padded, output_attentions=output_attentions)
        return self.output(context[:, :height, :width]), probabilities


class Intermediate(nn.Module):
    """The widening half of the feed-forward part."""

    def __init__(self, config: Any, *, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, int(config.mlp_ratio * dim))
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w wide"]:
        """Widen by `mlp_ratio`."""
        widened: Tensor = self.activation(self.dense(hidden_states))
        return widened


class Output(nn.Module):
    """The narrowing half of the feed-forward part."""

    def __init__(self, config: Any, *, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(int(config.mlp_ratio * dim), dim)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "b h w wide"]) -> Float[Tensor, "b h w c"]:
        """Go back to the width of the map."""
        narrowed: Tensor = self.dropout(self.dense(hidden_states))
        return narrowed


class Layer(GradientCheckpointingLayer):
    """Attention and feed-forward part, each behind a norm and beside a residual path."""

    def __init__(self, config: Any, *, dim: int, num_heads: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = AttentionModule(config, dim=dim, num_heads=num_heads, dilation=dilation)
        self.drop_path = DropPath(drop_path)
        self.layernorm_after = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.intermediate = Intermediate(config, dim=dim)
        self.output = Output(config, dim=dim)
        self.layer_scale_parameters = None
        if config.layer_scale_init_value > 0:
            self.layer_scale_parameters = nn.Parameter(torch.full((2, dim), float(config.layer_scale_init_value)))

    def forward(
        self, hidden_states: Float[Tensor, "b h w c"], output_attentions: bool = False
    ) -> tuple[Float[Tensor, "b h w c"], Tensor | None]:
        """Give the map, and the probabilities when asked for."""
        attended, probabilities = self.attention(
            self.layernorm_before(hidden_states), output_attentions=output_attentions
        )
        hidden_states = hidden_states + self.drop_path(self._scaled(attended, 0))
        forwarded = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(self._scaled(forwarded, 1)), probabilities

    def _scaled(self, branch: Tensor, which: int) -> Tensor:
        return branch if self.layer_scale_parameters is None else self.layer_scale_parameters[which] * branch


class Downsampler(nn.Module):
    """A convolution of stride 2 to twice the width, normalized."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, hidden_states: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h_half w_half c_twice"]:
        """Halve the resolution."""
        reduced = self.reduction(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normalized: Tensor = self.norm(reduced)
        return normalized
