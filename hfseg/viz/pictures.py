"""Pictures inside a page: small enough for all of them together, and without a second file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

WIDTHS_PX = (2000, 1600, 1280, 960, 640, 400, 240)
QUALITY = 84


@dataclass(frozen=True)
class Embedded:
    """A JPEG as a data URI, its size in px, and the name of the sample that it shows."""

    name: str
    uri: str
    width: int
    height: int


def embed(paths: Sequence[Path], *, max_bytes: int) -> tuple[list[Embedded], list[str]]:
    """Turn pictures into data URIs that together take at most `max_bytes`, each reduced as far as its share needs.

    Returns the pictures, and the names of files that cannot be read.
    """
    embedded, unreadable = [], []
    for path in paths:
        try:
            picture = Image.open(path).convert("RGB")
        except (OSError, UnidentifiedImageError):
            unreadable.append(path.name)
            continue
        embedded.append(_reduced(path.stem.removesuffix("-side"), picture, max_bytes // len(paths)))
    return embedded, unreadable


def _reduced(name: str, picture: Image.Image, max_bytes: int) -> Embedded:
    smaller = picture
    uri = ""
    for width in WIDTHS_PX:
        if picture.width > width:
            height = max(1, round(picture.height * width / picture.width))
            smaller = picture.resize((width, height), Image.Resampling.LANCZOS)
        uri = _data_uri(smaller)
        if len(uri) <= max_bytes:
            break
    return Embedded(name, uri, *smaller.size)


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
