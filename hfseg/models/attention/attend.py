"""Softmax attention without its map: one operation, several ways to compute it.

n queries by m keys are n x m scores: for a map of 97 x 97 places and two frames in memory, 708 MB in float32, twice
that at the peak, and kept for the backward pass. Only `plain` stores them.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ALIGNMENT = 8
"""Widths of the fused operator are padded to a multiple of this, which its kernels on CUDA want."""
SCORES = 2**22
"""Scores that `chunked` computes at once: 16 MB of float32."""


def attend_fused(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], *, scale: float
) -> Float[Tensor, "b n c"]:
    """Attend by PyTorch's fused operator, which computes scores in tiles and again in the backward pass.

    On a CPU it does so only for one width of keys and values and with the last dimension dense; with any other it
    stores the scores. Zeros change no score and only add columns of zeros to the averages, which are cut off.
    """
    width = max(query.shape[-1], value.shape[-1])
    width += -width % ALIGNMENT
    padded = [F.pad(each, (0, width - each.shape[-1])).contiguous()[:, None] for each in (query, key, value)]
    averages = F.scaled_dot_product_attention(padded[0], padded[1], padded[2], scale=scale)
    return averages[:, 0, :, : value.shape[-1]]


def attend_chunked(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], *, scale: float
) -> Float[Tensor, "b n c"]:
    """Attend some queries at a time; their scores are computed again in the backward pass."""

    def part(queries: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return attend_plain(queries, key, value, scale=scale)
        averages: Tensor = checkpoint(
            attend_plain, queries, key, value, scale=scale, use_reentrant=False, preserve_rng_state=False
        )
        return averages

    at_once = max(1, SCORES // max(1, key.shape[0] * key.shape[1]))
    return torch.cat([part(queries) for queries in query.split(at_once, dim=1)], dim=1)


def attend_plain(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], *, scale: float
) -> Float[Tensor, "b n c"]:
    """Attend as it is written, through the map of all scores: the definition, and what costs are counted of."""
    return torch.bmm((torch.bmm(query, key.mT) * scale).softmax(-1), value)


WAYS: Mapping[str, Callable[..., Tensor]] = {
    "fused": attend_fused,
    "chunked": attend_chunked,
    "plain": attend_plain,
}
"""Every way, by the name it can be forced by."""


class Attend(nn.Module):
    """Average values by the softmax over keys of scale x query . key.

    `way` names one of WAYS; None takes `fused` on CPU and CUDA and `chunked` elsewhere, where nothing is known of the
    fused operator.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.way: str | None = None

    def forward(
        self, query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"]
    ) -> Float[Tensor, "b n c"]:
        """Give one average per query."""
        way = self.way or ("fused" if query.device.type in ("cpu", "cuda") else "chunked")
        return WAYS[way](query, key, value, scale=self.scale)

    def weights_at(
        self, query: Float[Tensor, "1 d h w"], key: Float[Tensor, "1 t d *cells"], place: tuple[int, int]
    ) -> Float[Tensor, "t *cells"]:
        """Give the weights by which `forward` averages values for one place (row, column)."""
        scores = torch.einsum("d,td...->t...", query[0, :, place[0], place[1]], key[0]) * self.scale
        return scores.flatten().softmax(0).view(scores.shape)


def tokens(maps: Float[Tensor, "b t c *places"]) -> Float[Tensor, "b m c"]:
    """List the places of all frames one after the other, as attention takes them."""
    return maps.flatten(3).transpose(2, 3).flatten(1, 2)
