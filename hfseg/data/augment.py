"""The settings of augmentation: geometry in the loader, flips and colours on the device."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
"""The settings of colour, which mean nothing without `photometric`."""


class AugmentConfig(Config):
    """How training samples are varied, and at which size images enter the model."""

    crop_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 512
    """Training crop in pixels: one number for a square, or [height, width]."""
    short_side: PositiveInt | None = None
    """Pixels to which the shorter side of an image is brought, in training at scale 1.0 and in evaluation; the aspect
    is kept. Without it images keep their own size. Labels are never resized for evaluation."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random scale in training."""
    max_class_share: Annotated[float, Field(gt=0, le=1)] = 0.75
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

    @model_validator(mode="after")
    def _low_to_high(self) -> "AugmentConfig":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"`scale` must be [low, high]: got {list(self.scale)}")
        return self

    @model_validator(mode="after")
    def _strengths_are_used(self) -> "AugmentConfig":
        fields = type(self).model_fields
        idle = [name for name in STRENGTHS if getattr(self, name) != fields[name].default]
        if idle and not self.photometric:
            raise ValueError(
                f"`{idle[0]}` has no effect with `photometric: false`: got {getattr(self, idle[0]):g}\n\n"
                "hint: leave out the one or the other"
            )
        return self

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the training crop."""
        size = self.crop_size
        return (size, size) if isinstance(size, int) else size
