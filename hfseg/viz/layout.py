"""Where the panels of a composed picture lie, and what its legend says: written into the picture's own comment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from hfseg.viz.legend import Entry

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in px, as `Image.crop` takes them."""
COMMENT = "comment"
"""The key under which Pillow reads and writes a JPEG's comment."""


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows (`error`), what stands above it (`error 3.2 %`), and where it is."""

    name: str
    caption: str
    box: Box


@dataclass(frozen=True)
class Layout:
    """What a page needs to take a composed picture apart, and to write its texts as text."""

    panels: tuple[Panel, ...]
    legend: tuple[Entry, ...] = ()
    legend_heading: str = ""
    lines: tuple[str, ...] = ()
    """What stands above the panels."""

    def below(self, lines: Sequence[str], *, height_px: int) -> "Layout":
        """Describe the same panels below a heading of `height_px`."""
        moved = [replace(panel, box=_moved(panel.box, height_px)) for panel in self.panels]
        return replace(self, panels=tuple(moved), lines=tuple(lines))

    def write(self, picture: Image.Image) -> Image.Image:
        """Keep the layout in a picture, which brings it into the JPEG that it is saved as."""
        tree = {
            "lines": self.lines,
            "panels": [{"name": panel.name, "caption": panel.caption, "box": panel.box} for panel in self.panels],
            "legend": [{"text": entry.text, "color": entry.color} for entry in self.legend],
            "legend_heading": self.legend_heading,
        }
        picture.info[COMMENT] = json.dumps(tree).encode()
        return picture


def read_layout(picture: Image.Image) -> Layout | None:
    """Read what `write` left; None where there is nothing, or something else, or it does not fit the picture."""
    try:
        return _layout(json.loads(picture.info.get(COMMENT, b"")), picture.size)
    except (ValueError, KeyError, TypeError):  # any picture may have any comment
        return None


def _layout(tree: Mapping[str, Any], size: tuple[int, int]) -> Layout:
    panels = tuple(Panel(str(row["name"]), str(row["caption"]), _box(row["box"], size)) for row in tree["panels"])
    legend = tuple(Entry(str(row["text"]), _color(row["color"])) for row in tree["legend"])
    return Layout(panels, legend, str(tree["legend_heading"]), tuple(map(str, tree["lines"])))


def _box(numbers: Sequence[int], size: tuple[int, int]) -> Box:
    left, top, right, bottom = map(int, numbers)
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise ValueError(f"a panel lies outside its picture of {size[0]} x {size[1]} px: got {numbers}")
    return left, top, right, bottom


def _color(numbers: Sequence[int] | None) -> tuple[int, int, int] | None:
    if numbers is None:
        return None
    red, green, blue = bytes(numbers)
    return red, green, blue


def _moved(box: Box, down_px: int) -> Box:
    left, top, right, bottom = box
    return left, top + down_px, right, bottom + down_px
