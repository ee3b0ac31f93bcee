"""The effective receptive field: how much each pixel of an image sways the centre of a layer's map.

Source: Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
arXiv 1701.04128: the gradient of the central unit, averaged over images. Its absolute value is summed over the three
colours here, so that images do not cancel each other, and the unit's channels are added with random signs: behind a
layer norm, with which SegFormer ends its stages, the plain sum of the channels is a constant.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hfseg.explain.layers import Layer, frozen, to_map, watching


@dataclass(frozen=True)
class ReceptiveField:
    """The mean influence of each pixel on the unit at the map's centre."""

    influence: Float[Tensor, "h w"]
    """Sums to 1."""

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Row and column, in pixels from the top left, that part the influence into halves.

        Where a unit of a map looks at differs from its place in the map, by how convolutions with strides are padded.
        """
        return _median(self.influence.sum(1)), _median(self.influence.sum(0))

    def radius(self, share: float) -> float:
        """Half the side, in pixels, of the smallest square around the centre that holds this share of the influence."""
        rows, columns = (
            (torch.arange(side) + 0.5 - middle).abs()
            for side, middle in zip(self.influence.shape, self.centre, strict=True)
        )
        distance = torch.maximum(rows[:, None], columns[None]).flatten()
        near_to_far = distance.argsort()
        held = self.influence.flatten()[near_to_far].double().cumsum(0)
        place = int(torch.searchsorted(held, share * held[-1]))
        return float(distance[near_to_far[min(place, len(held) - 1)]]) + 0.5


def receptive_field(model: nn.Module, layer: Layer, images: Iterable[Float[Tensor, "1 3 h w"]]) -> ReceptiveField:
    """Average the influence of each pixel over images of one size, values of 0..1.

    Nothing behind the layer is computed.

    Raises:
        ValueError: there are no images, or the layer's centre depends on no pixel.
    """
    influences = []
    generator = torch.Generator().manual_seed(0)
    for image in images:
        pixel_values = image.detach().clone().requires_grad_()
        with frozen(model), torch.enable_grad(), watching(model, layer.module, stop=True) as seen:
            model(pixel_values)
        held = to_map(seen.maps[0], layer.layout, seen.grids)
        height, width = held.shape[2:]
        unit = held[0, :, height // 2, width // 2]
        signs = torch.randint(0, 2, unit.shape, generator=generator).to(unit) * 2 - 1
        (gradient,) = torch.autograd.grad(unit @ signs, pixel_values)
        influences.append(gradient.abs().sum(1)[0])
    if not influences:
        raise ValueError("a receptive field is averaged over images: got none")
    total = torch.stack(influences).mean(0).cpu()
    if not total.sum() > 0:
        raise ValueError(f"the centre of layer `{layer.name}` depends on no pixel")
    return ReceptiveField(total / total.sum())


def _median(influence: Float[Tensor, " n"]) -> float:
    """The place on an axis with half of the influence on each side, evenly spread over each pixel."""
    held = influence.double().cumsum(0)
    half = held[-1] / 2
    pixel = int(torch.searchsorted(held, half))
    before = held[pixel - 1] if pixel else 0.0
    return pixel + float((half - before) / (held[pixel] - before))
