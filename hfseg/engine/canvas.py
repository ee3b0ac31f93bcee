"""Canvases: the scores of an image, of which any rows can be had without making the others.

Scores of 150 classes at the size of a photograph take gigabytes. So nothing here makes them as a whole: what a model
said stays at its decoder's stride, and each canvas computes the rows it is asked for from those of the canvas below it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hfseg.logits import Strip, strip_rows
from hfseg.values import SegOutput


@runtime_checkable
class Canvas(Protocol):
    """Scores by image and class (`b k h w`), given by rows."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, classes, height and width."""

    @property
    def device(self) -> torch.device:
        """Where the scores are."""

    def rows(self, rows: slice) -> Float[Tensor, "b k rows w"]:
        """Give the scores of some rows."""


@dataclass(frozen=True)
class Whole:
    """What a model said of whole images, at its decoder's stride."""

    output: SegOutput

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, classes, height and width."""
        b, k, h, w = self.output.logits.shape
        return b, k, h, w

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.output.logits.device

    def rows(self, rows: slice) -> Float[Tensor, "b k rows w"]:
        """Give the scores of some rows."""
        return self.output.logits[:, :, rows]


@dataclass(frozen=True)
class Mirrored:
    """A canvas with left and right exchanged: what was said of a mirror image, turned back."""

    canvas: Canvas

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, classes, height and width."""
        return self.canvas.shape

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.canvas.device

    def rows(self, rows: slice) -> Float[Tensor, "b k rows w"]:
        """Give the scores of some rows."""
        return self.canvas.rows(rows).flip(-1)


@dataclass(frozen=True)
class Resized:
    """A canvas at another size (height, width)."""

    canvas: Canvas
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, classes, height and width."""
        b, k, _, _ = self.canvas.shape
        return b, k, *self.size

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.canvas.device

    def rows(self, rows: slice) -> Float[Tensor, "b k rows w"]:
        """Give the scores of some rows."""
        strip = self._strip(rows)
        return strip.resize(self.canvas.rows(strip.source), self.size[1])

    def argmax(self, rows: slice) -> Int[Tensor, "b rows w"]:
        """Give the most likely classes of some rows: those of the largest scores, found faster."""
        strip = self._strip(rows)
        return strip.argmax(self.canvas.rows(strip.source), self.size[1])

    def _strip(self, rows: slice) -> Strip:
        return Strip.cut(rows, source_height=self.canvas.shape[2], height=self.size[0])


@dataclass(frozen=True)
class Views:
    """What a model said of a batch of images, in one view or several."""

    canvases: tuple[Canvas, ...]

    @property
    def output(self) -> SegOutput | None:
        """What the model said, where it saw the whole images and saw them once."""
        only = self.canvases[0]
        return only.output if len(self.canvases) == 1 and isinstance(only, Whole) else None

    def argmax(self, size: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """Find the most likely class of every pixel at `size` (height, width).

        That is the class of the largest logit in a single view, and of the largest mean probability in several.
        """
        first = Resized(self.canvases[0], size)
        alone = len(self.canvases) == 1
        pred = torch.empty((first.shape[0], *size), dtype=torch.int32, device=first.device)
        for rows in self._strips(size):
            pred[:, rows] = first.argmax(rows) if alone else self._mean(rows, size).max(1).indices
        return pred

    def probabilities(self, size: tuple[int, int]) -> Iterator[tuple[slice, Float[Tensor, "b k rows w"]]]:
        """Give the mean probabilities of the classes at `size` (height, width) in strips, from top to bottom."""
        for rows in self._strips(size):
            yield rows, self._mean(rows, size)

    def _mean(self, rows: slice, size: tuple[int, int]) -> Float[Tensor, "b k rows w"]:
        first, *others = (Resized(canvas, size) for canvas in self.canvases)
        total = first.rows(rows).softmax(1)
        for view in others:
            total += view.rows(rows).softmax(1)
        return total.div_(len(self.canvases))

    def _strips(self, size: tuple[int, int]) -> Iterator[slice]:
        """Part the rows at `size` so that neither they nor what they are made from is large."""
        b, k, _, _ = self.canvases[0].shape
        height, width = size
        largest = max(h * w / height for _, _, h, w in (canvas.shape for canvas in self.canvases))
        return strip_rows(b * k * max(width, math.ceil(largest)), height, device=self.canvases[0].device)
