"""The settings of augmentation: geometry in the loader, flips and colours on the device."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config


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
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Vary brightness, contrast, saturation and hue."""

    @model_validator(mode="after")
    def _low_to_high(self) -> "AugmentConfig":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"`scale` must be [low, high]: got {list(self.scale)}")
        return self

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the training crop."""
        size = self.crop_size
        return (size, size) if isinstance(size, int) else size
