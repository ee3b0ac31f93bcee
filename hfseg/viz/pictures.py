"""Pictures inside a page: small enough for all of them together, and without a second file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hfseg.viz.layout import Layout, read_layout
from hfseg.viz.legend import Entry

WIDTHS_PX = (2000, 1600, 1280, 960, 640, 400, 240)
QUALITY = 84


@dataclass(frozen=True)
class Embedded:
    """A JPEG as a data URI, its size in px, the name of what it shows, and a longer caption."""

    name: str
    caption: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    """A predicted image: its panels apart, or in one picture where it is not known where they lie."""

    name: str
    panels: tuple[Embedded, ...]
    legend: tuple[Entry, ...]
    legend_heading: str
    lines: tuple[str, ...]
    """What was found out about the image, such as its place among the worst."""

    @property
    def found(self) -> list[str]:
        """The captions that say more than their panel's name."""
        return [panel.caption for panel in self.panels if panel.caption != panel.name]


def embed(paths: Sequence[Path], *, max_bytes: int) -> tuple[list[Sample], list[str]]:
    """Turn pictures into data URIs that together take at most `max_bytes`, each reduced as far as its share needs.

    Returns the pictures, and the names of files that cannot be read.
    """
    samples, unreadable = [], []
    for path in paths:
        picture = open_picture(path)
        if picture is None:
            unreadable.append(path.name)
        else:
            samples.append(_sample(path.stem.removesuffix("-side"), picture, max_bytes // len(paths)))
    return samples, unreadable


def open_picture(path: Path) -> Image.Image | None:
    """Read a picture (of an animation the first frame) in RGB, with what it says about itself; None if it cannot be."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
            picture.info = dict(file.info)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return picture


def reduced(name: str, caption: str, picture: Image.Image, *, max_bytes: int) -> Embedded:
    """Make a JPEG of at most `max_bytes`, as wide as that allows."""
    smaller, uri = picture, ""
    for width in WIDTHS_PX:
        if picture.width > width:
            height = max(1, round(picture.height * width / picture.width))
            smaller = picture.resize((width, height), Image.Resampling.LANCZOS)
        uri = _data_uri(smaller)
        if len(uri) <= max_bytes:
            break
    return Embedded(name, caption, uri, *smaller.size)


def _sample(name: str, picture: Image.Image, max_bytes: int) -> Sample:
    layout = read_layout(picture)
    if layout is None or not layout.panels:
        return Sample(name, (reduced(name, name, picture, max_bytes=max_bytes),), (), "", ())
    panels = _panels(layout, picture, max_bytes // len(layout.panels))
    return Sample(name, panels, layout.legend, layout.legend_heading, layout.lines)


def _panels(layout: Layout, picture: Image.Image, max_bytes: int) -> tuple[Embedded, ...]:
    return tuple(
        reduced(panel.name, panel.caption, picture.crop(panel.box), max_bytes=max_bytes) for panel in layout.panels
    )


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY, optimize=True, comment=b"")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
