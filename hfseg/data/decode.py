"""From the bytes of a file to upright RGB pixels, or to the raw values of a mask.

Images: grey is repeated in three channels; CMYK and other colour models are converted; transparency is dropped, the
stored colours stay; 16-bit values are divided by 257; the EXIF orientation is applied; of an animation the first frame
is taken. Masks: indices stay indices (a palette only paints them); a 1-bit mask holds 0 and 1; an RGB mask is kept for
the colour table, or read as one channel where there is no table and its three channels agree; an orientation is applied
only if the mask itself has one. Anything truncated or of another kind is an error that names the file.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from hfseg.errors import DataError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises for files that are not, or not wholly, what they say."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the turn that undoes it."""
_ORIENTATION_TAG = 0x0112
_LOSSY = {"JPEG", "MPO", "JPEG2000", "AVIF"}
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Picture:
    """An image whose header has been read and whose pixels have not."""

    file: Image.Image
    name: str
    orientation: int
    size: tuple[int, int]
    """Height and width, upright."""

    def decode(self, *, shrink: float = 1.0) -> tuple[Image.Image, int]:
        """Decode to upright RGB; give the image and the whole number by which each side was divided.

        A JPEG that will be shrunk by at least 2, 4 or 8 afterwards (`shrink`) is decoded at that fraction: pixel k of
        the result covers the pixels from k times the factor on. Other images have factor 1.

        Raises:
            DataError: the file is truncated or broken, or of a kind that has no RGB; names it.
        """
        factor = self._draft(shrink)
        with _told(self.name):
            self.file.load()
            image = to_rgb(self.file, name=self.name)
        turn = _UPRIGHT.get(self.orientation)
        return (image if turn is None else image.transpose(turn)), factor

    def _draft(self, shrink: float) -> int:
        """Ask for the fraction; turned images only when it divides them, so that no part of a pixel is left over."""
        if self.file.format != "JPEG" or shrink < 2:
            return 1
        width, height = self.file.size
        factor = next(size for size in (8, 4, 2) if size <= shrink)
        if self.orientation in _UPRIGHT and (width % factor or height % factor):
            return 1
        with _told(self.name):
            self.file.draft(None, (max(1, width // factor), max(1, height // factor)))
        return round(width / self.file.size[0])


def open_picture(data: bytes, *, name: str) -> Picture:
    """Read the header of an image.

    Raises:
        DataError: it is no image; names the file.
    """
    return _header(io.BytesIO(data), name=name, start=data[:64])


def read_size(file: io.BufferedIOBase, *, name: str) -> tuple[int, int]:
    """Read the height and width of an upright image from its header alone.

    Raises:
        DataError: it is no image; names the file.
    """
    start = file.read(64)
    file.seek(0)
    return _header(file, name=name, start=start).size


def to_rgb(image: Image.Image, *, name: str) -> Image.Image:
    """Convert a loaded image of any mode to RGB, by the rules at the head of this file.

    Raises:
        DataError: the values have no defined brightness (floats, or integers beyond 16 bits); names the file.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"`{name}` has the value {values.max()}: expected 8 or 16 bits a channel")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(
            f"`{name}` holds floating-point values: expected 8 or 16 bits a channel",
            hint="save it as an 8-bit image; which values are black and white is yours to choose",
        )
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def open_mask(data: bytes, *, name: str, colored: bool) -> Image.Image:
    """Decode a mask, upright, in a mode that holds indices, or in RGB where it is `colored` by a table.

    Raises:
        DataError: it is broken, of a lossy format, or of a mode that is neither indices nor RGB; names the file.
    """
    picture = open_picture(data, name=name)
    if picture.file.format in _LOSSY:
        raise DataError(
            f"mask `{name}` is a {picture.file.format}: expected a lossless format, since lossy ones change the values",
            hint="save it as PNG; for black-and-white masks, threshold first: "
            "Image.open(a).convert('L').point(lambda v: 255 * (v > 127)).save(b)",
        )
    with _told(name):
        picture.file.load()
    turn = _UPRIGHT.get(picture.orientation)
    image = picture.file if turn is None else picture.file.transpose(turn)
    return _plain_mask(image, name=name, colored=colored)


def mask_array(image: Image.Image) -> Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]:
    """Give the raw values of a decoded mask, or its colours."""
    values = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def count_values(image: Image.Image) -> dict[int, int]:
    """Count the pixels of each raw value of a decoded index mask."""
    if image.mode in ("L", "P"):
        return {value: count for value, count in enumerate(image.histogram()) if count}
    values, counts = np.unique(mask_array(image), return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _plain_mask(image: Image.Image, *, name: str, colored: bool) -> Image.Image:
    if image.mode in ("RGBA", "RGBX"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if image.mode == "RGB":
        return image if colored else _one_channel(image)
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise DataError(f"mask `{name}` has the mode {image.mode}: expected index values, a palette or RGB colours")
    return image


def _one_channel(image: Image.Image) -> Image.Image:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return image.getchannel(0) if red == green == blue else image


def _header(file: io.BufferedIOBase, *, name: str, start: bytes) -> Picture:
    if not start or start.startswith(_LFS_POINTER):
        what = "is empty" if not start else "is a Git LFS pointer, not the file itself"
        raise DataError(f"`{name}` {what}", hint="run `git lfs pull` in the data folder" if start else None)
    with _told(name):
        image = Image.open(cast(IO[bytes], file))
        orientation = _orientation(image)
    width, height = image.size
    return Picture(image, name, orientation, (width, height) if orientation >= 5 else (height, width))


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; asking a PNG without the tag would decode it."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and value in _UPRIGHT else 1


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what Pillow raises for a broken file into an error that names it."""
    try:
        yield
    except Image.DecompressionBombError as error:
        claimed, most = re.findall(r"\d+", str(error))[:2]
        raise DataError(
            f"`{name}` claims to hold {int(claimed):,} pixels: expected at most {int(most):,}, since a small file that "
            "claims so many is a way to fill a machine's memory",
            hint="cut it, and its pair, into tiles",
        ) from None
    except _BROKEN as error:
        if isinstance(error, UnidentifiedImageError):
            raise DataError(f"`{name}` is not an image that can be read", hint=_UNKNOWN_HINT) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"`{name}` is truncated or broken: {reason}",
            hint="copy it again, or take it and its pair out of the data set",
        ) from None


_UNKNOWN_HINT = "open it in an image viewer; PNG, JPEG, TIFF, WebP, BMP and GIF are known to work"
