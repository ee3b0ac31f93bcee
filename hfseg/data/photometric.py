"""Flips and colour changes of a whole batch, on whatever device it is."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hfseg.data.augment import AugmentConfig
from hfseg.values import Batch

BRIGHTNESS = 32 / 255
"""Largest shift of every channel."""
RATIO = (0.5, 1.5)
"""Range of the factors of contrast and saturation."""
HUE_DEGREES = 18.0
"""Largest turn of the hue."""
NUM_DRAWS = 10
"""Uniform numbers that one sample needs: flip; a gate and an amount for each of four changes; when contrast comes."""


class Photometric:
    """Flip images and labels, and change colours, by the numbers that came with the batch; gives floats of 0 to 1.

    Brightness, then contrast (either here or at the end), saturation and hue: each for half of the samples.
    Source: `PhotoMetricDistortion` of mmsegmentation, hue in degrees.
    """

    def __init__(self, augment: AugmentConfig) -> None:
        self.augment = augment

    def __call__(self, batch: Batch) -> Batch:
        """Change a batch; one without draws, as evaluation gives it, only becomes floats."""
        images = batch.pixel_values
        if not images.is_floating_point():
            images = images.to(torch.float32, memory_format=torch.contiguous_format) / 255
        labels, draws = batch.labels, batch.draws
        if draws is not None:
            flipped = (draws[:, 0] < self.augment.flip)[:, None, None]
            images = torch.where(flipped[:, None], images.flip(-1), images)
            labels = torch.where(flipped, labels.flip(-1), labels)
            images = photometric(images, draws) if self.augment.photometric else images
        return Batch(images, labels, batch.ids)


def photometric(images: Float[Tensor, "b 3 h w"], draws: Float[Tensor, "b p"]) -> Float[Tensor, "b 3 h w"]:
    """Change the colours of images of 0 to 1; `draws` are uniform in [0, 1), laid out as `NUM_DRAWS` says."""
    from kornia.color import hsv_to_rgb, rgb_to_hsv

    shift = _gated(draws, 1, (-BRIGHTNESS, BRIGHTNESS), neutral=0.0)
    contrast = _gated(draws, 3, RATIO, neutral=1.0)
    saturation = _gated(draws, 5, RATIO, neutral=1.0)
    turn = _gated(draws, 7, (-math.radians(HUE_DEGREES), math.radians(HUE_DEGREES)), neutral=0.0)
    contrast_first = (draws[:, 9] < 0.5)[:, None, None, None]
    images = (images + shift).clamp(0, 1)
    images = torch.where(contrast_first, images * contrast, images).clamp(0, 1)
    hue, satur, value = rgb_to_hsv(images).split(1, dim=1)
    hsv = torch.cat([(hue + turn) % (2 * math.pi), (satur * saturation).clamp(0, 1), value], dim=1)
    unchanged = (saturation == 1) & (turn == 0)
    images = torch.where(unchanged, images, hsv_to_rgb(hsv))
    return torch.where(contrast_first, images, images * contrast).clamp(0, 1)


def _gated(draws: Tensor, first: int, between: tuple[float, float], *, neutral: float) -> Float[Tensor, "b 1 1 1"]:
    """Half of the samples get an amount between two bounds, the others the neutral one."""
    low, high = between
    amount = low + (high - low) * draws[:, first + 1]
    return torch.where(draws[:, first] < 0.5, amount, torch.full_like(amount, neutral))[:, None, None, None]
