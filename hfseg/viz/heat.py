"""A heat map over a picture: what speaks for a class, the region that was asked about, and what the colours mean."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from hfseg.viz.legend import INK, MUTED, PAPER, font_of
from hfseg.viz.paint import GREY, GREY_DARKEST, blend, greyed, outlines

COLOR_MAP = "inferno"
"""Perceptually uniform, and dark where there is nothing, like the greyed picture below it."""
COVER = 0.85
"""Share of the colour where the map is highest; it falls with the root of the map, so that weak places are seen too."""
MIN_PX, MAX_PX = 480, 960
"""Longer side of the picture: smaller ones are magnified by a whole factor, larger ones reduced."""
BAR_PX = (180, 14)
OUTLINE, HALO = (255, 255, 255), (0, 0, 0)


def heat_picture(
    image: UInt8[np.ndarray, "h w 3"],
    heat: Float[np.ndarray, "h2 w2"] | None,
    region: Bool[np.ndarray, "h3 w3"] | None,
    *,
    title: str,
    note: str,
    note_lines: int = 1,
) -> Image.Image:
    """Lay the positive part of a map over the greyed picture, its maximum the brightest, and outline the region.

    Map and region may be of any size: they are stretched over the picture, the map bilinearly, the region as its cells
    are. Without a map the picture is grey alone, which title or note should explain. There is room for `note_lines` of
    the note at least; the sides are even, as video wants them.
    """
    shown = _fit(Image.fromarray(image))
    pixels = greyed(np.asarray(shown))
    if heat is not None:
        levels = _stretched(scaled(heat), shown.size)
        pixels = blend(pixels, colors_of(levels), COVER * np.sqrt(levels)[..., None])
    if region is not None:
        pixels = _outlined(pixels, region)
    return _captioned(Image.fromarray(pixels), title=title, note=note, note_lines=note_lines)


def scaled(heat: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The positive part of a map, divided by its maximum; zeros where nothing is positive."""
    positive = np.maximum(heat, 0).astype(np.float32)
    levels: Float[np.ndarray, "h w"] = positive / max(float(positive.max()), float(np.finfo(np.float32).tiny))
    return levels


def colors_of(levels: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour levels of 0..1."""
    table = (mpl.colormaps[COLOR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    colors: UInt8[np.ndarray, "h w 3"] = table[(levels * 255).round().astype(int).clip(0, 255)]
    return colors


def _fit(picture: Image.Image) -> Image.Image:
    longer = max(picture.size)
    factor = -(-MIN_PX // longer) if longer < MIN_PX else min(1.0, MAX_PX / longer)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture if factor == 1 else picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3)


def _stretched(levels: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "h2 w2"]:
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)


def _outlined(pixels: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h2 w2"]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a white line with a dark rim where the region begins and ends; the edge of the picture is none."""
    height, width = pixels.shape[:2]
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(int)
        for new, old in zip((height, width), region.shape, strict=True)
    )
    inside = region[np.ix_(rows, columns)].astype(np.uint8)
    thickness = max(1, round(max(height, width) / 450))
    drawn = pixels.copy()
    drawn[outlines(inside, thickness=3 * thickness)] = HALO
    line = outlines(inside, thickness=thickness)[thickness:, thickness:]  # in the middle of its rim
    drawn[:-thickness, :-thickness][line] = OUTLINE
    return drawn


def _captioned(picture: Image.Image, *, title: str, note: str, note_lines: int) -> Image.Image:
    """Write the title above, and below the colour bar with its meaning."""
    size_px = min(22, max(14, picture.width // 34))
    line, gap = round(size_px * 1.45), round(size_px * 0.6)
    above, below = (wrapped(text, picture.width - 2 * gap, size_px) for text in (title, note))
    top = len(above) * line + gap
    bottom = (1 + max(note_lines, len(below))) * line + 2 * gap
    width, height = picture.width, top + picture.height + bottom
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    canvas.paste(picture, (0, top))
    draw = ImageDraw.Draw(canvas)
    font = font_of(size_px)
    for number, text in enumerate(above):
        draw.text((gap, gap // 2 + number * line + line // 2), text, fill=INK, font=font, anchor="lm")
    place = top + picture.height + gap
    _bar(canvas, (gap, place), size_px)
    for number, text in enumerate(below, start=1):
        draw.text((gap, place + number * line + line // 2), text, fill=MUTED, font=font, anchor="lm")
    return canvas


def _bar(canvas: Image.Image, corner: tuple[int, int], size_px: int) -> None:
    """Show the colours as they lie over mid grey, between what they stand for."""
    draw, font = ImageDraw.Draw(canvas), font_of(size_px)
    width, height = BAR_PX
    middle = corner[1] + round(size_px * 1.45) // 2
    left = corner[0] + round(font.getlength("0")) + 8
    levels = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    below = np.full((height, width, 3), round(128 * GREY + GREY_DARKEST), dtype=np.uint8)
    colors = blend(below, colors_of(levels), COVER * np.sqrt(levels)[..., None])
    draw.text((corner[0], middle), "0", fill=MUTED, font=font, anchor="lm")
    canvas.paste(Image.fromarray(colors), (left, middle - height // 2))
    draw.text((left + width + 8, middle), "largest of this picture", fill=MUTED, font=font, anchor="lm")


def wrapped(text: str, width: int, size_px: int) -> Sequence[str]:
    """Break a text into lines of at most `width` pixels, between words."""
    font = font_of(size_px)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
