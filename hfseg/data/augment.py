"""The settings of augmentation: geometry and occlusion in the loader; flips, colours, blur and noise on the device."""

import json
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
STRENGTHS = {
    "photometric": ("brightness", "contrast", "saturation", "hue"),
    "blur": ("blur_sigma",),
    "noise": ("noise_std",),
    "erase": ("erase_area", "erase_fill"),
}
"""A setting that switches something on -> the settings that mean nothing without it."""
RANGES = ("scale", "blur_sigma", "erase_area")
"""The settings that are [low, high]."""


class AugmentConfig(Config):
    """How training samples are varied, and at which size images enter the model."""

    crop_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 512
    """Training crop in pixels: one number for a square, or [height, width]."""
    short_side: PositiveInt | None = None
    """Pixels to which the shorter side of an image is brought, in training at scale 1.0 and in evaluation; the aspect
    is kept. Without it images keep their own size. Labels are never resized for evaluation."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random scale in training."""
    max_class_share: PositiveShare = 0.75
    """A crop is drawn again, up to ten times, while one class has this share of its labelled pixels; 1: never."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn of a crop about its middle, in degrees, either way; what comes from beyond the image is ignored."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Share = 0.0
    """Probability of a vertical flip."""
    photometric: bool = True
    """Vary brightness, contrast, saturation and hue, each for half of the samples."""
    brightness: Share = 32 / 255
    """Largest shift of every channel, in parts of white."""
    contrast: Share = 0.5
    """Largest change of the factor of contrast, so that it lies in [1 - contrast, 1 + contrast]."""
    saturation: Share = 0.5
    """Largest change of the factor of saturation."""
    hue: Annotated[float, Field(ge=0, le=180)] = 18.0
    """Largest turn of the hue, in degrees, either way."""
    blur: Share = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the crop."""
    noise: Share = 0.0
    """Probability of Gaussian noise, drawn for each pixel and channel."""
    noise_std: PositiveShare = 0.05
    """Largest standard deviation of the noise, in parts of white."""
    clip_photometric: Literal["frame", "clip"] = "frame"
    """Whether each frame of a clip has colours, blur and noise of its own, as TMANet has it, or all frames the same.
    Scale, place and flip are always one for all frames, and the pattern of noise is always another."""
    erase: Share = 0.0
    """Probability of erasing a rectangle, in a clip the same in all frames; the labels below it are ignored."""
    erase_area: tuple[PositiveShare, PositiveShare] = (0.02, 0.4)
    """Range of the rectangle's area, in parts of the crop."""
    erase_fill: Literal["noise", "mean"] = "noise"
    """What fills the rectangle: a random colour for each pixel, or the mean colour that also pads crops."""
    copy_paste: Share = 0.0
    """Probability of pasting a rare class from another training image, with its labels: the rarer a class, the more
    often it is chosen. Every mask is counted before the first step. Not for clips, whose past frames have no masks."""

    @model_validator(mode="after")
    def _low_to_high(self) -> "AugmentConfig":
        for name in RANGES:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"`{name}` must be [low, high]: got {[low, high]}")
        return self

    @model_validator(mode="after")
    def _strengths_are_used(self) -> "AugmentConfig":
        fields = type(self).model_fields
        for switch, strengths in STRENGTHS.items():
            idle = [name for name in strengths if getattr(self, name) != fields[name].default]
            if idle and not getattr(self, switch):
                state, got = json.dumps(getattr(self, switch)), json.dumps(getattr(self, idle[0]))
                raise ValueError(
                    f"`{idle[0]}` has no effect with `{switch}: {state}`: got {got}\n\n"
                    "hint: leave out the one or the other"
                )
        return self

    @model_validator(mode="after")
    def _photometry_is_used(self) -> "AugmentConfig":
        if self.clip_photometric != "frame" and not (self.photometric or self.blur or self.noise):
            raise ValueError(
                "`clip_photometric` has no effect without `photometric`, `blur` and `noise`: got "
                f"`{self.clip_photometric}`\n\nhint: leave it out"
            )
        return self

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the training crop."""
        size = self.crop_size
        return (size, size) if isinstance(size, int) else size
