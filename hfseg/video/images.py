"""A folder of numbered images as one clip."""

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hfseg.errors import DataError
from hfseg.video.clip import Frame


class ImageSequence:
    """Images, in the order of the numbers in their names, shown at a constant rate.

    An image that cannot be read leaves a gap of one frame and is named in `problems`.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[Path],
        *,
        rate: Fraction,
        read: Callable[[Path], UInt8[np.ndarray, "h w 3"]],
    ) -> None:
        """Take the images of folder `path`; `read` decodes one, or raises `DataError`."""
        self.path = path
        self.rate = rate
        self.time_base = 1 / rate
        self.pixel_aspect = Fraction(1)
        self.num_frames: int | None = len(images)
        self.sound: Path | None = None
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._images = sorted(images, key=_by_number)
        self._read = read

    def frames(self, *, every: int = 1) -> Iterator[Frame]:
        """Give the images: the first, and each `every`-th after it."""
        for index in range(0, len(self._images), every):
            try:
                image = self._read(self._images[index])
            except DataError as error:
                self.problems.append(error.message)
                continue
            yield Frame(image, index, index)


def _by_number(path: Path) -> tuple[list[str | int], str]:
    """Sort `frame2` before `frame10`: numbers in a name count as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts], path.name
