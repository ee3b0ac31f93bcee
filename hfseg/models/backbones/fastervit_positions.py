"""The position terms of FasterViT: small networks on coordinates, evaluated for the grid at hand.

Nothing is stored per size: every input recomputes its terms, so one set of weights serves all sizes, and both axes are
independent. Source: Hatamizadeh et al., FasterViT, arXiv 2306.06189; pairs after Liu et al., Swin Transformer V2,
arXiv 2111.09883, section 3.3.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HIDDEN_WIDTH = 512
"""Width of the networks that turn coordinates into position terms."""
MAX_BIAS = 16.0
"""Upper limit of the position term of an attention score."""
FAR = 8.0
"""Where the far end of a grid lies before the logarithm is taken."""


class PositionMlp(nn.Module):
    """The network that gives a term for each pair of coordinates, row first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cpb_mlp = nn.Sequential(nn.Linear(2, HIDDEN_WIDTH), nn.ReLU(), nn.Linear(HIDDEN_WIDTH, dim, bias=False))

    def _terms(self, rows: Float[Tensor, " h"], columns: Float[Tensor, " w"]) -> Float[Tensor, "h w c"]:
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        terms: Tensor = self.cpb_mlp(coordinates.to(self._weight.dtype))
        return terms

    def _count(self, start: int, end: int) -> Int[Tensor, " n"]:
        return torch.arange(start, end, device=self._weight.device)

    @property
    def _weight(self) -> Tensor:
        weight = self.cpb_mlp[0].weight
        assert isinstance(weight, Tensor)
        return weight


class PlacePosition(PositionMlp):
    """What is added to the token at each place of a grid.

    A coordinate is the distance from place `length // 2` in units of `length // 2`: -1 to 1 on an odd length, and
    -1 to 1 - 2 / length on an even one.
    """

    def forward(self, height: int, width: int) -> Float[Tensor, "h w c"]:
        """Give the terms of a grid of this size."""
        return self._terms(self._axis(height), self._axis(width))

    def _axis(self, length: int) -> Float[Tensor, " n"]:
        centre = length // 2
        return self._count(-centre, length - centre) / max(centre, 1)


class PairPosition(PositionMlp):
    """What is added to the score of each two tokens of a grid, for each head.

    A coordinate is the distance between the two, in units of the longest on this grid, on Swin V2's logarithmic scale.
    """

    def forward(self, height: int, width: int) -> Float[Tensor, "heads n n"]:
        """Give the terms of a grid of this size, whose `n` places are counted row by row; row `i` is the query's."""
        table = MAX_BIAS * torch.sigmoid(self._terms(self._axis(height), self._axis(width)))
        rows, columns = self._distances(height), self._distances(width)
        pairs = table[rows[:, None, :, None], columns[None, :, None, :]]
        return pairs.flatten(2, 3).flatten(0, 1).permute(2, 0, 1)

    def _axis(self, length: int) -> Float[Tensor, " n"]:
        distance = self._count(1 - length, length) * FAR / max(length - 1, 1)
        return distance.sign() * torch.log2(1 + distance.abs()) / math.log2(FAR)

    def _distances(self, length: int) -> Int[Tensor, "n n"]:
        places = self._count(0, length)
        return places[:, None] - places[None, :] + length - 1
