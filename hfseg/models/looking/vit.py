"""Global attention among all tokens: BEiT, DINOv2 with and without registers, DINOv3.

Where a neck makes a pyramid of the encoder's maps, a token stands for the pixels of the image at which the neck put it.
The tokens of the map come after those without a place: the class token, then registers.
Source: arXiv 2010.11929; 2106.08254 (positions as a bias); 2309.16588 (registers); 2508.10104 (rotated positions).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hfseg.models.looking.listening import Family, Heard, all_places, heads_of, probabilities
from hfseg.models.looking.record import Place, View


def _look(heard: Heard, grid: tuple[int, int], place: Place) -> View:
    head_dim = heard.attention.head_dim
    queries, keys = (heads_of(output[0], output.shape[-1] // head_dim) for output in heard.outputs)
    num_placeless = keys.shape[1] - grid[0] * grid[1]
    token = num_placeless + place[0] * grid[1] + place[1]
    query = queries[:, token : token + 1]
    if rotations := heard.arguments.get("position_embeddings"):
        cos, sin = (each.reshape(-1, head_dim) for each in rotations)
        spot = slice(token - num_placeless, token - num_placeless + 1)
        query = _rotated(query, cos[spot], sin[spot])
        keys = torch.cat([keys[:, :num_placeless], _rotated(keys[:, num_placeless:], cos, sin)], dim=1)
    mask = heard.arguments.get("attention_mask")
    bias = None if mask is None else mask[0, :, token]
    weights = probabilities(query[:, 0], keys, scale=heard.attention.scaling, bias=bias)
    return View(
        kind="global",
        key_grid=grid,
        cells=all_places(grid),
        weights=weights[:, num_placeless:],
        placeless=_placeless(weights[:, :num_placeless]),
    )


def _placeless(weights: Float[Tensor, "heads tokens"]) -> dict[str, Float[Tensor, "heads _tokens"]]:
    named = {"class token": weights[:, :1], "registers": weights[:, 1:]}
    return {name: those for name, those in named.items() if those.shape[1]}


def _rotated(
    tokens: Float[Tensor, "heads n d"], cos: Float[Tensor, "n d"], sin: Float[Tensor, "n d"]
) -> Float[Tensor, "heads n d"]:
    """Turn each pair of channels (i, i + d / 2) by the angle of its place."""
    first, second = tokens.chunk(2, dim=-1)
    return tokens * cos + torch.cat([-second, first], dim=-1) * sin


def _stride(config: Any, _stage: int) -> int:
    return int(config.patch_size)


def _family(block: str) -> Family:
    return Family(block=block, listens=("q_proj", "k_proj"), look=_look, stride=_stride, rounds_up=False)


BEIT = _family("BeitAttention")
DINO_V2 = _family("Dinov2Attention")
DINO_V2_REGISTERS = _family("Dinov2WithRegistersAttention")
DINO_V3 = _family("DINOv3ViTAttention")
