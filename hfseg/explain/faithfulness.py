"""Deletion and insertion: whether the score of a class follows the pixels that a map says it rests on.

Pixels are removed in the order of the map, the highest first, and the class's mean probability over the region is
measured after each step; insertion gives the same pixels back to an image that has none. Two kinds of orders that know
nothing are measured beside it: pixels at random, and the map itself moved to another place, around the edges. The
second removes areas of the same shape, so only where they lie differs; scattered pixels tear an image less. Of a clip,
pixels of the current frame are removed; the frames in memory stay as they are.

Source: RISE (Petsiuk, Das, Saenko, arXiv 1806.07421), whose probability of an image is taken over a region here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hfseg.explain.layers import current
from hfseg.logits import resize_logits

Fill = Literal["blur", "mean"]
BLUR = 32
"""How many times an image is reduced, and enlarged again, where a blurred one stands for removed pixels."""

Image = Float[Tensor, "1 3 h w"]
Curve = tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """The class's mean probability over the region against the share of pixels removed, or given back."""

    fractions: Curve
    map: Curve
    """In the order of the map."""
    random: tuple[Curve, ...]
    """In random orders of the pixels."""
    moved: tuple[Curve, ...]
    """In the orders of the map at other places."""

    def to_json(self) -> dict[str, Any]:
        """Give the curves, and the area below each: its mean height, 0 to 1."""
        others = {"random": self.random, "moved": self.moved}
        return {
            "curve": self.map,
            "area": area(self.fractions, self.map),
            **{f"{name}_curves": curves for name, curves in others.items()},
            **{f"{name}_areas": [area(self.fractions, each) for each in curves] for name, curves in others.items()},
        }


@dataclass(frozen=True)
class Faithfulness:
    """The curves of a map; deletion should fall early, insertion rise early."""

    deletion: Curves
    insertion: Curves

    def to_json(self) -> dict[str, Any]:
        """Give curves and areas, and whether the map beats every random order, and every place it was moved to."""
        facts = {"deletion": self.deletion.to_json(), "insertion": self.insertion.to_json()}
        beats = {
            name: {other: _beats(found, other, lower=name == "deletion") for other in ("random", "moved")}
            for name, found in facts.items()
        }
        return {"fractions": self.deletion.fractions, **facts, "beats": beats}


@torch.no_grad()
def measure_faithfulness(
    model: nn.Module,
    pixel_values: Float[Tensor, "1 *t 3 h w"],
    heat: Float[Tensor, "h2 w2"],
    region: Bool[Tensor, "h3 w3"],
    class_id: int,
    *,
    steps: int = 16,
    seeds: Sequence[int] = (0, 1, 2),
    fill: Fill = "blur",
) -> Faithfulness:
    """Measure the curves of a map over an image or a clip of 0..1, and of each other kind of order one for each seed.

    `region` marks cells of the logits, as they were when nothing was removed.
    """
    image = current(pixel_values)
    empty = filling(image, fill)
    fractions = tuple(torch.linspace(0, 1, steps + 1).tolist())
    size = (image.shape[2], image.shape[3])
    random = [_random(size, seed).to(heat) for seed in seeds]
    moved = [_moved(heat, seed) for seed in seeds]

    def curve(values: Float[Tensor, "h2 w2"], start: Image, end: Image) -> Curve:
        ranks = _ranks(values, size)
        mixed = (torch.where(ranks < fraction * ranks.numel(), end, start) for fraction in fractions)
        return tuple(_probability(model, _shown(pixel_values, each), class_id, region) for each in mixed)

    def curves(start: Image, end: Image) -> Curves:
        others = (tuple(curve(values, start, end) for values in many) for many in (random, moved))
        return Curves(fractions, curve(heat, start, end), *others)

    return Faithfulness(curves(image, empty), curves(empty, image))


def area(fractions: Sequence[float], curve: Sequence[float]) -> float:
    """The area below a curve, by trapezoids."""
    return float(torch.trapezoid(torch.tensor(curve, dtype=torch.float64), torch.tensor(fractions).double()))


def filling(pixel_values: Image, fill: Fill) -> Image:
    """What stands in the place of removed pixels: the image's blurred self, or its mean colour."""
    if fill == "mean":
        return pixel_values.mean((2, 3), keepdim=True).expand_as(pixel_values)
    height, width = pixel_values.shape[-2:]
    coarse = (max(1, height // BLUR), max(1, width // BLUR))
    small = F.interpolate(pixel_values, size=coarse, mode="bilinear", antialias=True)
    return F.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)


def _beats(found: dict[str, Any], other: str, *, lower: bool) -> bool:
    areas = found[f"{other}_areas"]
    return all(found["area"] < each for each in areas) if lower else all(found["area"] > each for each in areas)


def _ranks(values: Float[Tensor, "h2 w2"], size: tuple[int, int]) -> Float[Tensor, "h w"]:
    """The place of each pixel in the order from the highest value of the enlarged map to the lowest."""
    order = resize_logits(values[None, None], size).flatten().argsort(descending=True, stable=True)
    ranks = torch.empty(order.numel(), device=order.device)
    ranks[order] = torch.arange(order.numel(), device=order.device, dtype=ranks.dtype)
    return ranks.view(size)


def _random(size: tuple[int, int], seed: int) -> Float[Tensor, "h w"]:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def _moved(heat: Float[Tensor, "h w"], seed: int) -> Float[Tensor, "h w"]:
    """The map moved around the edges by a random way: a quarter to three quarters of each side."""
    shares = 0.25 + 0.5 * torch.rand(2, generator=torch.Generator().manual_seed(seed))
    ways = [max(1, round(float(share) * side)) for share, side in zip(shares, heat.shape, strict=True)]
    return heat.roll(ways, (0, 1))


def _shown(pixel_values: Float[Tensor, "1 *t 3 h w"], image: Image) -> Float[Tensor, "1 *t 3 h w"]:
    """Put an image in the place of the current frame."""
    return image if pixel_values.ndim == 4 else torch.cat([pixel_values[:, :-1], image[:, None]], dim=1)


def _probability(
    model: nn.Module, image: Float[Tensor, "1 *t 3 h w"], class_id: int, region: Bool[Tensor, "h2 w2"]
) -> float:
    probabilities = model(image).logits[0].softmax(0)[class_id]
    return float(probabilities[region].mean())
