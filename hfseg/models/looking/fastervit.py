"""FasterViT's attention inside windows, which hold carrier tokens of the whole image too on its third level.

Shown is what a place takes from its own window, and as numbers what it takes from the window's carrier tokens, which
have seen those of all windows before. Levels 1 and 2 are convolutions.
Source: arXiv 2306.06189.
"""

from typing import Any

from torch.nn.functional import pad

from hfseg.models.looking.listening import Family, Heard, heads_of, probabilities
from hfseg.models.looking.record import Place, View
from hfseg.models.looking.windowed import locate


def _look(heard: Heard, grid: tuple[int, int], place: Place) -> View:
    attention, size = heard.attention, heard.block.window_size
    number, token, cells = locate(place, grid, size=size)
    queries, keys, _ = (heads_of(part, attention.num_heads) for part in heard.outputs[0][number].chunk(3, dim=-1))
    num_carriers = keys.shape[1] - len(cells)
    bias = pad(attention.pos_emb_funct(size, size)[:, token], (num_carriers, 0))
    weights = probabilities(queries[:, num_carriers + token], keys, scale=keys.shape[-1] ** -0.5, bias=bias)
    return View(
        kind=f"window of {size} x {size}",
        key_grid=grid,
        cells=cells,
        weights=weights[:, num_carriers:],
        placeless={"carrier tokens": weights[:, :num_carriers]} if num_carriers else {},
    )


def _stride(_config: Any, stage: int) -> int:
    return 4 << stage


FASTERVIT = Family(block="AttentionBlock", attention="attn", listens=("attn.qkv",), look=_look, stride=_stride)
