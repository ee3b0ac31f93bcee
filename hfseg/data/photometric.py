"""Flips, colours, blur and noise of a whole batch, on whatever device it is."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

from hfseg.data.augment import AugmentConfig
from hfseg.data.degradation import add_noise, blur
from hfseg.values import Batch

NUM_DRAWS = 15
"""Uniform numbers that one sample needs: 0 flips; 1 to 8 a gate and an amount for each of four changes of colour; 9
when contrast comes; 10 and 11 gate and amount of blur; 12 and 13 gate and amount of noise; 14 its pattern."""
FIRST_DRAWS = 10
"""Those that are drawn before the geometry; the others come last: a run without them is as if there were none."""
_FLIP, _NOISE_PATTERN = 0, 14


class Photometric:
    """Flip images and labels, change colours, blur and add noise, by the numbers that came with the batch.

    A clip is flipped as a whole; the rest is done to each frame by the frame's own numbers (see `frame_draws`).

    Gives floats of 0 to 1. Brightness, then contrast (either here or at the end), saturation and hue: each for half of
    the samples. Blur comes before noise, as a lens before its sensor.
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
            images, labels = flip(images, labels, draws[..., _FLIP].view(len(draws), -1)[:, -1], self.augment)
            shape = images.shape
            images = self._distort(images.flatten(0, -4), draws.flatten(0, -2)).view(shape)
        return Batch(images, labels, batch.ids)

    def _distort(self, images: Float[Tensor, "b 3 h w"], draws: Float[Tensor, "b p"]) -> Float[Tensor, "b 3 h w"]:
        images = photometric(images, draws, self.augment) if self.augment.photometric else images
        images = blur(images, draws[:, 10:12], self.augment) if self.augment.blur else images
        return add_noise(images, draws[:, 12:15], self.augment) if self.augment.noise else images


def frame_draws(
    draws: Float32[np.ndarray, " p"], num_before: int, rng: np.random.Generator, augment: AugmentConfig
) -> Float32[np.ndarray, "t p"]:
    """Draw the numbers of the frames before one whose own numbers are `draws`, which come last.

    The flip is that of the clip. Where the photometric changes are the clip's, too, only the pattern of noise is drawn
    anew: a sensor's noise is another in each frame, and one that stands still could be learnt.
    """
    frames = np.concatenate([rng.random((num_before, NUM_DRAWS), dtype=np.float32), draws[None]])
    shared = slice(_NOISE_PATTERN) if augment.clip_photometric == "clip" else slice(_FLIP + 1)
    frames[:, shared] = draws[shared]
    return frames


def flip(
    images: Float[Tensor, "b *t 3 h w"],
    labels: Integer[Tensor, "b h w"],
    draw: Float[Tensor, " b"],
    augment: AugmentConfig,
) -> tuple[Float[Tensor, "b *t 3 h w"], Integer[Tensor, "b h w"]]:
    """Flip images, or clips, and labels, across and upside down, each with its own probability.

    One uniform number decides both: what is left of it after the first decision is uniform again.
    """
    across = draw < augment.flip
    images, labels = _flipped(images, labels, across, axis=-1)
    if not augment.vertical_flip:
        return images, labels
    rest = torch.where(across, draw / max(augment.flip, 1e-9), (draw - augment.flip) / max(1 - augment.flip, 1e-9))
    return _flipped(images, labels, rest < augment.vertical_flip, axis=-2)


def photometric(
    images: Float[Tensor, "b 3 h w"], draws: Float[Tensor, "b p"], augment: AugmentConfig
) -> Float[Tensor, "b 3 h w"]:
    """Change the colours of images of 0 to 1; `draws` are uniform in [0, 1), laid out as `NUM_DRAWS` says."""
    shift = _gated(draws, 1, augment.brightness, neutral=0.0)
    contrast = _gated(draws, 3, augment.contrast, neutral=1.0)
    is_first = (draws[:, 9] < 0.5)[:, None, None, None]
    one = torch.ones_like(contrast)
    images = (images + shift).clamp_(0, 1).mul_(torch.where(is_first, contrast, one)).clamp_(0, 1)
    if augment.saturation or augment.hue:
        saturation = _gated(draws, 5, augment.saturation, neutral=1.0)
        turn = _gated(draws, 7, augment.hue, neutral=0.0)
        changed = change_hue_saturation(images, turn, saturation)
        images = torch.where((saturation == 1) & (turn == 0), images, changed)  # bits stay where nothing was drawn
    return images.mul_(torch.where(is_first, one, contrast)).clamp_(0, 1)


def change_hue_saturation(
    images: Float[Tensor, "b 3 h w"], turn: Float[Tensor, "b 1 1 1"], saturation: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, "b 3 h w"]:
    """Turn the hue by degrees and scale the saturation, value kept, as HSV has them.

    Written out, since saturation needs no conversion (saturation times value is the spread of the channels) and hue is
    piecewise linear: an order of magnitude faster on a CPU than a conversion there and back.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    scale = spread.clamp(min=1e-8).reciprocal_()
    hue = torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4)
    hue = torch.where(value == red, (green - blue) * scale, hue)  # in sixths of the circle
    hue = hue.add_(turn[:, 0] / 60).remainder_(6)
    spread = torch.minimum(spread * saturation[:, 0], value)
    low = value - spread
    red_part = (hue - 3).abs_().sub_(1).clamp_(0, 1)
    green_part = (hue - 2).abs_().neg_().add_(2).clamp_(0, 1)
    blue_part = (hue - 4).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.stack([part.mul_(spread).add_(low) for part in (red_part, green_part, blue_part)], dim=1)


def _flipped(images: Tensor, labels: Tensor, chosen: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    seen, known = (chosen.view(-1, *[1] * (values.dim() - 1)) for values in (images, labels))
    return torch.where(seen, images.flip(axis), images), torch.where(known, labels.flip(axis), labels)


def _gated(draws: Tensor, first: int, strength: float, *, neutral: float) -> Float[Tensor, "b 1 1 1"]:
    """Half of the samples get an amount within `strength` of the neutral one, the others just that."""
    low, high = neutral - strength, neutral + strength
    amount = low + (high - low) * draws[:, first + 1]
    return torch.where(draws[:, first] < 0.5, amount, torch.full_like(amount, neutral))[:, None, None, None]
