"""Steadier predictions of a clip: an exponential average of the scores, moved along with the camera.

The scores of the frame before are kept at the decoder's stride. They are shifted by the motion of the whole picture,
which phase correlation finds, before they are averaged with those of the frame: edges stay where they are in a pan.
Motion of single objects is not followed; they leave a trail that fades by `decay` a frame.

Source: Kuglin and Hines, The Phase Correlation Image Alignment Method, 1975.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float, Shaped
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hfseg.config import Config
from hfseg.engine.canvas import Resized, Views, Whole
from hfseg.values import SegOutput

MAX_SIDE_PX = 256
"""The longer side of the pictures between which motion is looked for."""
SAMPLED_STRIDE = 4
"""Pixels of the picture between scores that are kept, where a protocol has several views or windows."""


class SmoothingConfig(Config):
    """Averaging over the frames of a clip."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the frames before in the average; 0 leaves each frame to itself."""
    align: bool = True
    """Shift what is known of the frames before by the motion of the picture."""

    @model_validator(mode="after")
    def _aligned_for_an_average(self) -> "SmoothingConfig":
        if not self.align and not self.decay:
            raise ValueError("`align` has no effect without `decay`\n\nhint: for instance smoothing.decay=0.8")
        return self

    def build(self) -> "Smoother | None":
        """Make a smoother, None where nothing is averaged."""
        return Smoother(self) if self.decay > 0 else None


class Smoother:
    """Averages the scores of the frames of one clip; the frames come one after the other."""

    def __init__(self, config: SmoothingConfig) -> None:
        self._config = config
        self._scores: Tensor | None = None
        self._picture: Tensor | None = None

    def reset(self) -> None:
        """Forget the frames before."""
        self._scores = self._picture = None

    def smooth(self, views: Views, pixel_values: Shaped[Tensor, "1 3 h w"]) -> Views:
        """Average what a model said of a frame with what is known from the frames before, of the same size."""
        height, width = pixel_values.shape[-2:]
        averaged = self.average(_scores_of(views, (height, width)), pixel_values)
        return Views((Whole(SegOutput(averaged)),))

    @torch.inference_mode()
    def average(self, scores: Float[Tensor, "1 k h w"], pixel_values: Shaped[Tensor, "1 3 h2 w2"]) -> Tensor:
        """Give the average, in which the frames before have the share `decay` wherever they saw the same place."""
        picture = _thumbnail(pixel_values)
        before, seen = self._scores, self._picture
        self._picture = picture
        if before is None or seen is None or before.shape != scores.shape or seen.shape != picture.shape:
            self._scores = scores
            return scores
        shift = find_shift(seen, picture) if self._config.align else scores.new_zeros(2)
        ratio = [of / by for of, by in zip(scores.shape[-2:], picture.shape, strict=True)]
        moved, covered = translate(before, shift * shift.new_tensor(ratio))
        share = self._config.decay * covered.to(scores.dtype)
        self._scores = torch.lerp(scores, moved, share)
        return self._scores


def find_shift(before: Float[Tensor, "h w"], after: Float[Tensor, "h w"]) -> Float[Tensor, "2"]:
    """Find by how many pixels, down and right, the content moved; nothing where moving it makes it fit no better.

    A fraction of a pixel is read from a parabola through the peak and its neighbours. The device is not waited for.
    """
    height, width = before.shape
    window = torch.outer(_hann(height, before), _hann(width, before))
    one, other = ((picture - picture.mean()) * window for picture in (before, after))
    cross = torch.fft.rfft2(other) * torch.fft.rfft2(one).conj()
    response = torch.fft.irfft2(cross / cross.abs().clamp_min(1e-12), s=(height, width))
    place = response.argmax()
    row, column = place // width, place % width
    down = _peak(response.index_select(1, column[None])[:, 0], row)
    right = _peak(response.index_select(0, row[None])[0], column)
    shift = torch.stack((down, right))
    moved, covered = translate(before[None, None], shift)
    fits = ((moved[0, 0] - after).abs() * covered).sum() / covered.sum().clamp_min(1)
    return torch.where(fits < (before - after).abs().mean(), shift, torch.zeros_like(shift))


def translate(
    maps: Float[Tensor, "1 k h w"], shift: Float[Tensor, "2"]
) -> tuple[Float[Tensor, "1 k h w"], Float[Tensor, "h w"]]:
    """Move maps by a number of pixels, down and right, bilinearly; give where they still cover the picture, as 0 or 1.

    What comes in at a border repeats the pixels there.
    """
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype) - shift[0].to(maps.dtype)
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype) - shift[1].to(maps.dtype)
    inside = torch.outer(
        ((rows >= 0) & (rows <= height - 1)).to(maps.dtype), ((columns >= 0) & (columns <= width - 1)).to(maps.dtype)
    )
    down = rows * (2 / max(1, height - 1)) - 1
    right = columns * (2 / max(1, width - 1)) - 1
    grid = torch.stack((right.expand(height, width), down[:, None].expand(height, width)), -1)
    moved = F.grid_sample(maps, grid[None], mode="bilinear", padding_mode="border", align_corners=True)
    return moved, inside


def _scores_of(views: Views, size: tuple[int, int]) -> Float[Tensor, "1 k h w"]:
    """Give scores that averages can be made of: a single view's logits, or logarithms of the mean probabilities."""
    if views.output is not None:
        return views.output.logits
    sampled = (math.ceil(size[0] / SAMPLED_STRIDE), math.ceil(size[1] / SAMPLED_STRIDE))
    if len(views.canvases) == 1:
        return Resized(views.canvases[0], sampled).rows(slice(0, sampled[0]))
    probabilities = torch.cat([strip for _, strip in views.probabilities(sampled)], 2)
    return probabilities.clamp_min_(torch.finfo(probabilities.dtype).tiny).log_()


def _thumbnail(pixel_values: Shaped[Tensor, "1 3 h w"]) -> Float[Tensor, "h2 w2"]:
    """Make a grey picture of 0..1 in which motion is looked for."""
    grey = pixel_values.to(torch.float32).mean((0, 1))
    grey = grey if pixel_values.is_floating_point() else grey / 255
    factor = max(1, math.ceil(max(grey.shape) / MAX_SIDE_PX))
    return F.avg_pool2d(grey[None, None], factor, ceil_mode=True)[0, 0] if factor > 1 else grey


def _hann(length: int, like: Tensor) -> Float[Tensor, " n"]:
    return torch.hann_window(length, periodic=False, device=like.device, dtype=like.dtype)


def _peak(line: Float[Tensor, " n"], place: Tensor) -> Tensor:
    """Give the place of a peak to a fraction, counted from 0 in both directions: what lies past half is negative."""
    length = len(line)
    left, top, right = (line[(place + step) % length] for step in (-1, 0, 1))
    bend = left - 2 * top + right
    offset = torch.where(bend < 0, 0.5 * (left - right) / bend, torch.zeros_like(bend))
    return torch.where(place > length // 2, place - length, place) + offset
