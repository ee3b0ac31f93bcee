"""The record of one query's attention: which cells it sees, and how much each head takes from each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hfseg.errors import DataError

Point = tuple[float, float]
"""A pixel (x, y), from the top left."""
Place = tuple[int, int]
"""Row and column of a cell, from 0."""


@dataclass(frozen=True, slots=True)
class View:
    """What a query sees inside one block, in cells of that block's keys."""

    kind: str
    """The attention in words, as `neighborhood of 7 x 7, dilation 2`."""
    key_grid: tuple[int, int]
    """Rows and columns of the keys that lie on the map."""
    cells: Int[Tensor, "cells 2"]
    """Row and column of each key; those below or right of `key_grid` lie on the padding that the encoder added."""
    weights: Float[Tensor, "heads cells"]
    """What each head takes from each key, after the softmax."""
    placeless: Mapping[str, Float[Tensor, "heads _tokens"]]
    """What each head takes from tokens that have no place on the map, by what these are."""
    key_cells: tuple[float, float] = (1.0, 1.0)
    """Height and width of a key's cell, in cells of the queries."""
    dilation: int = 1

    def on_host(self) -> "View":
        """Bring the numbers to the host, as float32."""
        placeless = {name: weights.float().cpu() for name, weights in self.placeless.items()}
        return replace(self, cells=self.cells.cpu(), weights=self.weights.float().cpu(), placeless=placeless)


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """What one query of one block attends to, on the host.

    A cell (row, column) of a grid of stride s stands for the s x s pixels from (column s, row s) on.
    """

    stage: int
    """From 1: the resolution of a pyramid, the layer of a plain transformer."""
    block: int
    """From 1, inside the stage."""
    module: str
    """Full name of the block inside the Hugging Face model."""
    point: tuple[float, float]
    """The pixel (x, y) that was asked for."""
    grid: tuple[int, int]
    """Rows and columns of the queries."""
    stride: int
    """Pixels on a side of a query's cell."""
    query: Place
    """The cell of `grid` in which the pixel lies."""
    view: View

    @property
    def num_heads(self) -> int:
        """How many heads there are."""
        return self.view.weights.shape[0]

    @property
    def key_px(self) -> tuple[float, float]:
        """Height and width of a key's cell, in pixels."""
        return self.view.key_cells[0] * self.stride, self.view.key_cells[1] * self.stride

    @property
    def inside(self) -> Bool[Tensor, " cells"]:
        """Which of the cells lie on the map, not on padding."""
        return (self.view.cells < torch.tensor(self.view.key_grid)).all(1)

    @property
    def padding(self) -> Float[Tensor, " heads"]:
        """What each head takes from padding."""
        return self.view.weights[:, ~self.inside].sum(1)

    @property
    def largest(self) -> Float[Tensor, " heads"]:
        """The largest weight of each head on the map."""
        return self.view.weights.where(self.inside, 0).amax(1)

    @property
    def distance_px(self) -> Float[Tensor, " heads"]:
        """Mean distance of what each head looks at, in pixels between centres of cells, weighted by attention.

        Padding and tokens without a place are left out, and the other weights brought to a sum of 1; 0 where nothing
        is left. It is the distance of this query: published curves average it over all.

        Source: arXiv 2010.11929, figure 7.
        """
        weights, distances = self.view.weights[:, self.inside], self._distances()[self.inside]
        return (weights @ distances) / weights.sum(1).clamp(min=torch.finfo(weights.dtype).tiny)

    @property
    def reach_px(self) -> float:
        """Distance from the query to the furthest cell that it sees, in pixels between centres."""
        return float(self._distances()[self.inside].max())

    def dense(self) -> Float[Tensor, "heads rows columns"]:
        """Lay the weights out on the grid of the keys; NaN where the query does not look."""
        canvas = torch.full((self.num_heads, *self.view.key_grid), torch.nan)
        rows, columns = self.view.cells[self.inside].T
        canvas[:, rows, columns] = self.view.weights[:, self.inside]
        return canvas

    def _distances(self) -> Float[Tensor, " cells"]:
        centre = (torch.tensor(self.query) + 0.5) * self.stride
        steps = (self.view.cells + 0.5) * torch.tensor(self.key_px) - centre
        return steps.square().sum(1).sqrt()


def check_points(points: Sequence[Point], size: tuple[int, int]) -> None:
    """See that points lie inside an image of `size` (height, width).

    Raises:
        DataError: one does not.
    """
    for x, y in points:
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise DataError(
                f"point ({x:g}, {y:g}) lies outside the image: expected x below {size[1]} and y below {size[0]}",
                hint="give the pixel as X,Y from the top left",
            )
