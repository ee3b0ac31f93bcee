"""What a clip is: frames with their places in time, and what is known about all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt8


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a clip, upright."""

    image: UInt8[np.ndarray, "h w 3"]
    index: int
    """Its number in the clip, from 0, counting the frames that were passed over."""
    pts: int
    """When it is shown, in units of the clip's `time_base`."""


@runtime_checkable
class Clip(Protocol):
    """A source of frames that is read from its start to its end, in constant memory."""

    path: Path
    time_base: Fraction
    """Seconds in which times are counted."""
    rate: Fraction
    """Frames per second: the average, where the rate varies."""
    pixel_aspect: Fraction
    """Width of a pixel over its height, upright."""
    num_frames: int | None
    """Frames that the clip is said to have; None where nothing says it."""
    sound: Path | None
    """The file whose sound belongs to the clip."""
    problems: list[str]
    """Parts that could not be read, found while reading."""
    notes: list[str]
    """What is unusual and was taken into account, found while reading."""

    def frames(self, *, every: int = 1) -> Iterator[Frame]:
        """Give the frames in the order of their times: the first, and each `every`-th after it."""


@runtime_checkable
class FramePredictor(Protocol):
    """Names the class of each pixel of a clip's frames, which it is given one after the other."""

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
        """Predict the classes of one frame, which may depend on those before it."""

    def reset(self) -> None:
        """Forget the frames before: the next one begins a clip, or a scene."""
