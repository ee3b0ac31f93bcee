"""Attention heads: for each block a row of panels, one for each head, with the cells drawn as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from hfseg.viz.legend import INK, MUTED, PAPER, font_of
from hfseg.viz.paint import GREY_DARKEST, blend, greyed

COLUMNS = 4
"""Heads in a row; more go on below."""
GAP_PX = 8
TEXT_PX = 15
LINE_PX = 20
COLOR_MAP = "plasma"
"""Its dark end is blue: a cell of no weight still differs from the grey picture, where the query does not look."""
COVER = 0.75
"""Share of the colour in a cell; the picture shows through."""
MARK = (64, 255, 160)
"""The query: a green that the colour map does not have."""
ZOOM_BELOW = 0.5
"""What a query sees is magnified where it takes up less than this share of both sides of the picture."""
MARGIN = 1.25
"""A magnified part is larger than what the query sees by this factor."""
EDGES_FROM_PX = 7
"""Cells get edges where they are at least as large as this on the panel."""


@dataclass(frozen=True)
class HeadRow:
    """The heads of one block, in pixels of the picture below them."""

    title: str
    weights: Float[np.ndarray, "heads rows columns"]
    """What each head takes from each cell; NaN where it does not look."""
    cell_px: tuple[float, float]
    """Height and width of a cell; the first begins at the top left."""
    query_px: tuple[float, float, float, float]
    """Left, top, right and bottom of the query's cell."""
    captions: tuple[tuple[str, ...], ...]
    """The lines below each head's panel."""
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...] | None = None
    """The picture of each panel, where panels are frames of a clip and not heads. They show whole pictures, in colours
    of one scale."""


class Part(NamedTuple):
    """A part of the picture, in its pixels."""

    left: float
    top: float
    width: float
    height: float

    def to_panel(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """Where a point of the picture lies on a panel of `size` (width, height) that shows this part."""
        return (x - self.left) * size[0] / self.width, (y - self.top) * size[1] / self.height


def head_grid(
    image: UInt8[np.ndarray, "h w 3"],
    rows: Sequence[HeadRow],
    *,
    heading: Sequence[str],
    shared_scale: bool = False,
    panel_px: int = 240,
) -> Image.Image:
    """Draw the heads of all blocks: on the left where the query is, beside it one panel for each head.

    Colours go from 0 to the largest weight of the panel, or of the block's panels with `shared_scale`; a line at the
    bottom says which. A part that is small on the picture is magnified, and framed in the panel on the left. The sides
    of the result are even, as video wants them.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a grid of heads needs blocks: got none")
    size = panel_px, max(1, round(panel_px * image.shape[0] / image.shape[1]))
    heights = [_height(row, size) for row in rows]
    top = LINE_PX * len(heading) + 2 * GAP_PX
    width = (COLUMNS + 1) * (panel_px + GAP_PX) + GAP_PX
    canvas = Image.new("RGB", (width + width % 2, -(-(top + sum(heights) + 2 * LINE_PX) // 2) * 2), PAPER)
    for number, line in enumerate(heading):
        _write(canvas, (GAP_PX, GAP_PX + LINE_PX * number), line, INK if number == 0 else MUTED)
    grey = greyed(image)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(canvas, top, (image, grey), row, size, shared_scale=shared_scale)
        top += height
    _scale(canvas, top, "of the block's heads" if shared_scale else "of the panel")
    return canvas


def _height(row: HeadRow, size: tuple[int, int]) -> int:
    lines = -(-len(row.weights) // COLUMNS)
    return LINE_PX + lines * (size[1] + LINE_PX * len(row.captions[0]) + GAP_PX) + GAP_PX


def _draw_row(
    canvas: Image.Image,
    top: int,
    pictures: tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]],
    row: HeadRow,
    size: tuple[int, int],
    *,
    shared_scale: bool,
) -> None:
    _write(canvas, (GAP_PX, top), row.title, INK)
    image, grey = pictures
    whole = Part(0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    part = _seen_part(row, whole)
    where = Image.fromarray(_resized(image, whole, size))
    if part != whole:
        _frame(where, part, whole)
    _mark(where, row, whole)
    top += LINE_PX
    canvas.paste(where, (GAP_PX, top))
    _write(canvas, (GAP_PX, top + size[1]), "the query" if part == whole else "the query, and the part shown", MUTED)
    pictures_below = [grey] * len(row.weights) if row.pictures is None else [greyed(each) for each in row.pictures]
    peaks = np.nanmax(row.weights, axis=(1, 2))
    step_x, step_y = size[0] + GAP_PX, size[1] + LINE_PX * len(row.captions[0]) + GAP_PX
    for head, (weights, lines) in enumerate(zip(row.weights, row.captions, strict=True)):
        corner = GAP_PX + (head % COLUMNS + 1) * step_x, top + head // COLUMNS * step_y
        peak = float(peaks.max() if shared_scale or row.pictures is not None else peaks[head])
        panel = _panel(_resized(pictures_below[head], part, size), weights, part, row.cell_px, peak=peak)
        _mark(panel, row, part)
        canvas.paste(panel, corner)
        for number, line in enumerate(lines):
            _write(canvas, (corner[0], corner[1] + size[1] + number * LINE_PX), line, MUTED)


def _panel(
    below: UInt8[np.ndarray, "h w 3"],
    weights: Float[np.ndarray, "rows columns"],
    part: Part,
    cell_px: tuple[float, float],
    *,
    peak: float,
) -> Image.Image:
    """Colour each cell evenly, where it truly is; what the query does not see stays grey."""
    height, width = below.shape[:2]
    rows, row_edges = _cells(part.top, part.height, height, cell_px[0])
    columns, column_edges = _cells(part.left, part.width, width, cell_px[1])
    bounded = np.ix_(rows.clip(0, weights.shape[0] - 1), columns.clip(0, weights.shape[1] - 1))
    values = weights[bounded]
    values[(rows < 0) | (rows >= weights.shape[0])] = np.nan
    values[:, (columns < 0) | (columns >= weights.shape[1])] = np.nan
    seen = ~np.isnan(values)
    levels = np.where(seen, values / max(peak, np.finfo(np.float32).tiny), 0)
    share = COVER * seen * np.where(row_edges[:, None] | column_edges, 0.4, 1.0)
    return Image.fromarray(blend(below, _colors(levels), share[..., None]))


def _cells(start: float, length: float, pixels: int, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of the cell in which each pixel of a panel's axis lies, and which pixels are the first of a cell."""
    numbers = np.floor((start + (np.arange(pixels) + 0.5) * length / pixels) / cell).astype(int)
    is_wide = cell * pixels / length >= EDGES_FROM_PX
    return numbers, np.diff(numbers, prepend=numbers[0]).astype(bool) & is_wide


def _colors(levels: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    table = (mpl.colormaps[COLOR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    colors: UInt8[np.ndarray, "h w 3"] = table[(levels * 255).round().astype(int).clip(0, 255)]
    return colors


def _seen_part(row: HeadRow, whole: Part) -> Part:
    """The part of the picture to show: of its shape, and around everything the query sees."""
    if row.pictures is not None:
        return whole
    size = whole.height, whole.width
    seen = ~np.isnan(row.weights).all(axis=0)
    (first, last), (left, right) = (np.flatnonzero(seen.any(axis=axis))[[0, -1]] for axis in (1, 0))
    spans = [(first, last + 1, row.cell_px[0], 1, 3), (left, right + 1, row.cell_px[1], 0, 2)]
    edges = [(min(a * px, row.query_px[i]), max(b * px, row.query_px[j])) for a, b, px, i, j in spans]
    share = max((high - low) / length for (low, high), length in zip(edges, size, strict=True))
    if share >= ZOOM_BELOW:
        return whole
    lengths = [length * share * MARGIN for length in size]
    corner = [
        float(min(max((low + high - shown) / 2, 0), length - shown))
        for (low, high), shown, length in zip(edges, lengths, size, strict=True)
    ]
    return Part(corner[1], corner[0], float(lengths[1]), float(lengths[0]))


def _resized(image: UInt8[np.ndarray, "h w 3"], part: Part, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    box = (part.left, part.top, part.left + part.width, part.top + part.height)
    filtering = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size, filtering, box=box, reducing_gap=2))


def _frame(panel: Image.Image, part: Part, shown: Part) -> None:
    left, top = shown.to_panel(part.left, part.top, panel.size)
    right, bottom = shown.to_panel(part.left + part.width, part.top + part.height, panel.size)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
    draw.rectangle((left, top, right, bottom), outline="white")


def _mark(panel: Image.Image, row: HeadRow, part: Part) -> None:
    """Frame the query's cell, and put a ring around one that would be overlooked."""
    left, top = part.to_panel(row.query_px[0], row.query_px[1], panel.size)
    right, bottom = part.to_panel(row.query_px[2], row.query_px[3], panel.size)
    draw = ImageDraw.Draw(panel)
    if max(right - left, bottom - top) < EDGES_FROM_PX:
        x, y, radius = (left + right) / 2, (top + bottom) / 2, EDGES_FROM_PX
        draw.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), outline="black", width=4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=MARK, width=2)
        return
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=4)
    draw.rectangle((left, top, right, bottom), outline=MARK, width=2)


def _scale(canvas: Image.Image, top: int, of_what: str) -> None:
    """Say what the colours mean, as a bar with its ends."""
    width, height = 120, 12
    bar = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    _write(canvas, (GAP_PX, top), "0", MUTED)
    below = np.full((height, width, 3), GREY_DARKEST, dtype=np.uint8)
    canvas.paste(Image.fromarray(blend(below, _colors(bar), COVER)), (GAP_PX + 14, top + (LINE_PX - height) // 2))
    text = f"largest weight {of_what}; grey: the query does not look there"
    _write(canvas, (GAP_PX + 14 + width + 6, top), text, MUTED)


def _write(canvas: Image.Image, corner: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    place = corner[0], corner[1] + LINE_PX // 2
    ImageDraw.Draw(canvas).text(place, text, fill=color, font=font_of(TEXT_PX), anchor="lm")
