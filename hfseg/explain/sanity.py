"""Does a map depend on what the model has learned? Parameters are drawn anew from the head down, and maps compared.

A map that stays the same while the weights below it become noise shows the image and not the model.

Source: Sanity Checks for Saliency Maps (Adebayo et al., arXiv 1810.03292, section 4.1, cascading randomization), whose
measures are the rank correlation and the structural similarity of the maps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

COMPARED_PX = 64
"""The side of the pictures whose structure is compared."""
WINDOW, SIGMA = 11, 1.5
"""The Gaussian window of the structural similarity; Wang et al., IEEE TIP 2004."""


@dataclass(frozen=True)
class Similarity:
    """How alike a map is to that of the trained model once everything down to `module` has been drawn anew."""

    module: str
    spearman: float
    """Rank correlation of the maps' absolute values, -1 to 1."""
    ssim: float
    """Structural similarity of the maps as shown: their positive part, its maximum 1."""


def randomization_check(
    model: nn.Module, modules: Sequence[str], explain: Callable[[], Float[Tensor, "h w"]], *, seed: int = 0
) -> list[Similarity]:
    """Draw `modules` anew one after the other, in their order, and compare `explain()` with what it was at first.

    The model is as before afterwards.
    """
    with unchanged(model):
        trained = explain()
        generator = torch.Generator().manual_seed(seed)
        found = []
        for name in modules:
            randomize(model.get_submodule(name), generator)
            found.append(similarity(name, trained, explain()))
    return found


@torch.no_grad()
def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter anew, from the normal distribution of its own mean and deviation.

    This holds for every kind of layer, leaves activations at a size that the layers above can work with, and forgets
    all that was learned but two numbers of each parameter.
    """
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        mean, deviation = parameter.double().mean(), parameter.double().std(correction=0)
        parameter.copy_((mean.cpu() + deviation.cpu() * noise).to(parameter))


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put parameters and buffers back as they were."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(state)


def similarity(module: str, one: Float[Tensor, "h w"], other: Float[Tensor, "h w"]) -> Similarity:
    """Compare two maps of one layer."""
    return Similarity(module, spearman(one.abs(), other.abs()), ssim(shown(one), shown(other)))


def shown(heat: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The positive part of a map, divided by its maximum; zeros where nothing is positive."""
    positive = heat.relu()
    highest = positive.max()
    return positive / highest if highest > 0 else positive


def spearman(one: Float[Tensor, "h w"], other: Float[Tensor, "h w"]) -> float:
    """Correlate the ranks of two maps, ties at their mean rank; 0 where one of them is constant."""
    ranks = torch.stack([_ranks(values.flatten().double()) for values in (one, other)])
    centred = ranks - ranks.mean(1, keepdim=True)
    lengths = centred.norm(dim=1).prod()
    return float((centred[0] * centred[1]).sum() / lengths) if lengths > 0 else 0.0


def ssim(one: Float[Tensor, "h w"], other: Float[Tensor, "h w"]) -> float:
    """Structural similarity of two maps of 0..1, each enlarged to 64 x 64."""
    pair = torch.stack([one, other])[:, None].double()
    pictures = F.interpolate(pair, size=(COMPARED_PX, COMPARED_PX), mode="bilinear", align_corners=False)
    places = torch.arange(WINDOW, dtype=torch.float64, device=pair.device) - WINDOW // 2
    bell = torch.exp(-(places**2) / (2 * SIGMA**2))
    window = (torch.outer(bell, bell) / bell.sum() ** 2)[None, None]
    x, y = pictures
    averaged = F.conv2d(torch.stack([x, y, x * x, y * y, x * y]), window)
    mean_x, mean_y, xx, yy, xy = averaged[:, 0]
    covariance, variances = xy - mean_x * mean_y, xx - mean_x**2 + yy - mean_y**2
    low, high = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + low) * (2 * covariance + high)
    return float((values / ((mean_x**2 + mean_y**2 + low) * (variances + high))).mean())


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Float[Tensor, " n"] = (last - (counts.double() - 1) / 2)[inverse]
    return ranks
