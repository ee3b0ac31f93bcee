"""Attention inside windows, every other time shifted: Swin, MaskFormer's Swin, Swin V2.

A shifted window is made by rolling the map, so one at the edge holds up to four pieces that do not see each other. The
query's own piece is shown, at its place on the map that was not rolled. What the mask leaves of the other pieces, a
factor e^-100, is left out.
Source: arXiv 2103.14030, section 3.2; 2111.09883, eq. 2.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from hfseg.models.looking.listening import Family, Heard, all_places, heads_of, probabilities
from hfseg.models.looking.record import Place, View

Weigh = Callable[[Any, Tensor, Tensor, int], Tensor]
"""What one token of a window takes from each, were there no mask: (attention, its query, keys, its number)."""
MAX_LOGIT_SCALE = math.log(100)
"""The bound of Swin V2's temperatures."""


def locate(place: Place, grid: tuple[int, int], *, size: int, shift: int = 0) -> tuple[int, int, Int[Tensor, "s 2"]]:
    """Find a place in the windows of a map that is padded to whole ones and rolled by `shift`.

    Gives the number of the window, the number of the place in it, and the places of all its tokens.
    """
    lengths = [-(-length // size) * size for length in grid]
    row, column = ((own - shift) % length for own, length in zip(place, lengths, strict=True))
    number = row // size * (lengths[1] // size) + column // size
    corner = torch.tensor([row // size * size, column // size * size])
    cells = (corner + all_places((size, size)) + shift) % torch.tensor(lengths)
    return number, row % size * size + column % size, cells


def _look(heard: Heard, grid: tuple[int, int], place: Place, *, weigh: Weigh) -> View:
    size, shift = int(heard.block.window_size), int(heard.block.shift_size)
    number, token, cells = locate(place, grid, size=size, shift=shift)
    queries, keys = (heads_of(output[number], heard.attention.num_attention_heads) for output in heard.outputs)
    mask = heard.arguments.get("attention_mask")
    seen = torch.ones(len(cells), dtype=torch.bool) if mask is None else (mask[number, token] == 0).cpu()
    weights = weigh(heard.attention, queries[:, token], keys, token)[:, seen]
    return View(
        kind=f"{'shifted ' if shift else ''}window of {size} x {size}",
        key_grid=grid,
        cells=cells[seen],
        weights=weights / weights.sum(1, keepdim=True),
        placeless={},
    )


def _swin(
    attention: Any, query: Float[Tensor, "heads d"], keys: Float[Tensor, "heads s d"], token: int
) -> Float[Tensor, "heads s"]:
    return probabilities(query, keys, scale=attention.scaling, bias=attention.relative_position_bias()[0, :, token])


def _maskformer_swin(
    attention: Any, query: Float[Tensor, "heads d"], keys: Float[Tensor, "heads s d"], token: int
) -> Float[Tensor, "heads s"]:
    bias = attention.relative_position_bias_table[attention.relative_position_index[token]]
    return probabilities(query, keys, scale=query.shape[-1] ** -0.5, bias=bias.T)


def _swin_v2(
    attention: Any, query: Float[Tensor, "heads d"], keys: Float[Tensor, "heads s d"], token: int
) -> Float[Tensor, "heads s"]:
    """Cosines instead of products, each head with a temperature of its own, and positions from a small network."""
    scale = attention.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()[:, :, 0]
    table = attention.continuous_position_bias_mlp(attention.relative_coords_table).flatten(0, -2)
    places = attention.relative_position_index[token]
    bias = 16 * table[places].sigmoid().T
    return probabilities(normalize(query, dim=-1), normalize(keys, dim=-1), scale=scale, bias=bias)


def _stride(config: Any, stage: int) -> int:
    return int(config.patch_size) << stage


def _family(block: str, attention: str, query: str, key: str, weigh: Weigh) -> Family:
    return Family(
        block=block,
        attention=attention,
        listens=(f"{attention}.{query}", f"{attention}.{key}"),
        look=partial(_look, weigh=weigh),
        stride=_stride,
    )


SWIN = _family("SwinLayer", "attention", "q_proj", "k_proj", _swin)
MASKFORMER_SWIN = _family("MaskFormerSwinLayer", "attention.self", "query", "key", _maskformer_swin)
SWIN_V2 = _family("Swinv2Layer", "attention.self", "query", "key", _swin_v2)
