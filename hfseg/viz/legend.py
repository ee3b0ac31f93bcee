"""A legend below a picture: a swatch, a name and a share for each class that occurs."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from hfseg.labels import IGNORE, Color
from hfseg.viz.paint import hatch

PAPER: Color = (255, 255, 255)
INK: Color = (31, 35, 41)
MUTED: Color = (107, 114, 128)
MAX_ENTRIES = 24
"""Classes that a legend names; the rest is summed up in one entry."""


@dataclass(frozen=True)
class Entry:
    """One line of a legend; without a colour its swatch is hatched, like ignored pixels."""

    text: str
    color: Color | None


def font_of(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Load Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size_px)


def class_entries(
    names: Sequence[str], palette: Sequence[Color], columns: Sequence[Sequence[float]], ignored: Sequence[float]
) -> list[Entry]:
    """Make an entry for each class that has pixels in one of the columns, the largest first.

    A column holds the share of pixels (0..1) of every class; `ignored` holds the ignored share of each column.
    """
    order = sorted(range(len(names)), key=lambda index: (-max(column[index] for column in columns), index))
    present = [index for index in order if any(column[index] > 0 for column in columns)]
    entries = [
        Entry(f"{names[index]}  {_share_text([column[index] for column in columns])}", palette[index])
        for index in present[:MAX_ENTRIES]
    ]
    rest = present[MAX_ENTRIES:]
    if rest:
        left = [sum(column[index] for index in rest) for column in columns]
        entries.append(Entry(f"{len(rest)} more classes  {_share_text(left)}", PAPER))
    if any(ignored):
        entries.append(Entry(f"{IGNORE}  {_share_text(ignored)}", None))
    return entries


def add_legend(
    picture: Image.Image, entries: Sequence[Entry], *, size_px: int, heading: str | None = None
) -> Image.Image:
    """Put a legend below a picture, whose own pixels stay as they are at the top left.

    The result is wider than the picture only where one entry would not fit.
    """
    font = font_of(size_px)
    gap = round(size_px * 0.6)
    entry_width = max(round(font.getlength(entry.text)) for entry in entries) + 2 * size_px + 2 * gap
    heading_width = round(font.getlength(heading)) + 2 * gap if heading else 0
    width = max(picture.width, entry_width + gap, heading_width)
    columns = max(1, (width - gap) // entry_width)
    rows = -(-len(entries) // columns)
    line = round(size_px * 1.55)
    top = picture.height + gap
    body = top + (line if heading else 0)
    canvas = Image.new("RGB", (width, body + rows * line + gap // 2), PAPER)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    if heading:
        draw.text((gap, top + line // 2), heading, fill=MUTED, font=font, anchor="lm")
    for place, entry in enumerate(entries):
        row, column = place % rows, place // rows
        left, middle = gap + column * entry_width, body + row * line + line // 2
        _swatch(canvas, (left, middle - size_px // 2), size_px, entry.color)
        draw.text((left + size_px + gap, middle), entry.text, fill=INK, font=font, anchor="lm")
    return canvas


def _swatch(canvas: Image.Image, corner: tuple[int, int], size_px: int, color: Color | None) -> None:
    stripes = hatch(size_px, size_px, stripe=max(2, size_px // 5))
    canvas.paste(
        Image.fromarray(stripes) if color is None else color, (*corner, corner[0] + size_px, corner[1] + size_px)
    )
    box = (*corner, corner[0] + size_px - 1, corner[1] + size_px - 1)
    ImageDraw.Draw(canvas).rectangle(box, outline=MUTED)


def _share_text(values: Sequence[float]) -> str:
    """Write shares of one class, one for each picture, as `31.2 / 30.1 %`."""
    return " / ".join("<0.1" if 0 < value < 0.0005 else f"{100 * value:.1f}" for value in values) + " %"
