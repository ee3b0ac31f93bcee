"""Finding the frames at which one scene ends and another begins."""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

GRID = 32
"""Cells on a side of the thumbnails that are compared: so coarse that motion between two frames changes them little."""
MAX_CORRELATION = 0.5
"""Thumbnails of two scenes correlate less: 0.34 at the most between 10 photographs and clips, all pairs. Consecutive
frames of one scene correlate by more: 0.97 and up in four clips, 0.66 where an animal hits the camera."""
MIN_DIFFERENCE = 0.04 * 255
"""Thumbnails of two scenes differ by more, so that noise on an even surface is no cut."""


class CutDetector:
    """Tells of each frame whether it begins another scene than the frame before it."""

    def __init__(self) -> None:
        self._previous: Float32[np.ndarray, "cells 3"] | None = None
        self._size: tuple[int, ...] | None = None

    def is_cut(self, image: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Compare a frame with the one before it; a change of size is a cut, the first frame is none."""
        small = Image.fromarray(image).resize((GRID, GRID), Image.Resampling.BOX)
        current = np.asarray(small, dtype=np.float32).reshape(-1, 3)
        before, size = self._previous, self._size
        self._previous, self._size = current, image.shape
        if before is None:
            return False
        return size != image.shape or _differ(before, current)


def _differ(one: Float32[np.ndarray, "cells 3"], other: Float32[np.ndarray, "cells 3"]) -> bool:
    if float(np.abs(one - other).mean()) < MIN_DIFFERENCE:
        return False
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float((a * b).sum()) < MAX_CORRELATION * scale or scale == 0
