"""The part of a prediction whose score is explained: the image, a class's pixels, a box, a point."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Corner = tuple[float, float]
"""Right and down, as shares (0..1) of the image's width and height."""


@dataclass(frozen=True)
class WholeImage:
    """Every pixel."""

    def mask(self, logits: Float[Tensor, "1 k h w"], class_id: int) -> Bool[Tensor, "h w"]:
        """Mark the cells of the logits that belong to the region."""
        return torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device)


@dataclass(frozen=True)
class PredictedPixels:
    """The pixels that the model gives to the class itself; none where it sees the class nowhere."""

    def mask(self, logits: Float[Tensor, "1 k h w"], class_id: int) -> Bool[Tensor, "h w"]:
        """Mark the cells of the logits that belong to the region."""
        return logits[0].argmax(0) == class_id


@dataclass(frozen=True)
class Box:
    """What lies between two corners; at least the cell around its centre."""

    first: Corner
    second: Corner

    def mask(self, logits: Float[Tensor, "1 k h w"], class_id: int) -> Bool[Tensor, "h w"]:
        """Mark the cells of the logits whose centre lies in the region."""
        height, width = logits.shape[2:]
        rows, columns = ((torch.arange(n, device=logits.device) + 0.5) / n for n in (height, width))
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(self.first, self.second, strict=True))
        inside = ((rows >= top) & (rows <= bottom))[:, None] & ((columns >= left) & (columns <= right))
        centre = ((left + right) / 2, (top + bottom) / 2)
        return inside if inside.any() else Point(centre).mask(logits, class_id)


@dataclass(frozen=True)
class Point:
    """One place: the cell of the logits that it lies in."""

    at: Corner

    def mask(self, logits: Float[Tensor, "1 k h w"], class_id: int) -> Bool[Tensor, "h w"]:
        """Mark the cell of the logits that the point lies in."""
        height, width = logits.shape[2:]
        inside = torch.zeros(height, width, dtype=torch.bool, device=logits.device)
        right, down = self.at
        inside[min(int(down * height), height - 1), min(int(right * width), width - 1)] = True
        return inside


Region = WholeImage | PredictedPixels | Box | Point
