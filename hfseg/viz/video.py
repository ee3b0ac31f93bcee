"""Frames of a video that shows predictions: panels side by side, and a legend that does not jump."""

from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from hfseg.labels import Color, LabelSpace
from hfseg.viz.legend import INK, MUTED, PAPER, font_of
from hfseg.viz.paint import outlines

View = Literal["side", "overlay", "mask", "original"]
"""Frame beside overlay, overlay, class colours alone, or the frame alone."""
ALPHA = 0.5
"""Share of the class colours in an overlay; outlines have all of it."""
SEEN = 0.002
"""Share of a frame's pixels from which on a class is named as one that is there."""
MAX_ROWS = 2
FADED: Color = (160, 166, 175)


class ClipPainter:
    """Paints every frame of a clip at one size, with even sides, as H.264's halved colour wants them."""

    def __init__(self, labels: LabelSpace, size: tuple[int, int], *, view: View, legend: bool = True) -> None:
        """Lay out frames of `size` (height, width); without predictions in view there is no legend."""
        self.frame_size = size
        self._labels, self._view = labels, view
        height, width = size
        self._gap = 2 * max(2, width // 160) if view == "side" else 0
        whole = 2 * width + self._gap if view == "side" else width
        self._legend = Legend(labels, whole) if legend and view != "original" else None
        below = self._legend.height if self._legend else 0
        self.size = height + below + (height + below) % 2, whole + whole % 2
        """Height and width of what is painted."""
        self.padded = bool(whole % 2 or (height % 2 and not below))
        """Whether the picture has one more row or column, because a side would be odd."""
        self._blank = np.full((*self.size, 3), PAPER, dtype=np.uint8)
        palette = np.asarray(labels.palette, dtype=np.uint8)
        self._colors = palette
        self._tints = (palette * ALPHA).astype(np.uint8)
        self._faded = (np.arange(256) * (1 - ALPHA)).astype(np.uint8)

    def paint(
        self, image: UInt8[np.ndarray, "h w 3"], pred: Integer[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Paint one frame; one of another size than the first is brought to that size."""
        image, pred = _fitted(image, pred, self.frame_size)
        height, width = self.frame_size
        canvas = self._blank.copy()
        panels = {"side": (None, True), "overlay": (True,), "mask": (False,), "original": (None,)}[self._view]
        for place, lit in enumerate(panels):
            left = place * (width + self._gap)
            canvas[:height, left : left + width] = image if lit is None else self._painted(image, pred, over=lit)
        if self.size[1] > len(panels) * (width + self._gap) - self._gap:
            canvas[:height, -1] = canvas[:height, -2]
        if self._legend is not None:
            strip = self._legend.draw(np.bincount(pred.ravel(), minlength=self._labels.num_labels) / pred.size)
            canvas[height : height + strip.shape[0], : strip.shape[1]] = strip
        elif self.size[0] > height:
            canvas[-1] = canvas[-2]
        return canvas

    def _painted(
        self, image: UInt8[np.ndarray, "h w 3"], pred: Integer[np.ndarray, "h w"], *, over: bool
    ) -> UInt8[np.ndarray, "h w 3"]:
        if not over:
            return self._colors.take(pred, axis=0)
        painted: UInt8[np.ndarray, "h w 3"] = self._faded.take(image)
        painted += self._tints.take(pred, axis=0)
        edge = outlines(pred, thickness=max(1, round(max(pred.shape) / 500)))
        painted[edge] = self._colors[pred[edge]]
        return painted


class Legend:
    """A strip that names classes: each gets the next place when it is first seen, and keeps it for the whole clip.

    Classes that the frame does not show are faded. Classes for which there is no place are counted in the last one.
    """

    def __init__(self, labels: LabelSpace, width: int) -> None:
        self._labels, self._width = labels, width
        self._size_px = min(44, max(13, width // 54))
        font = font_of(self._size_px)
        longest = max(round(font.getlength(name)) for name in labels.names)
        self._entry_px = longest + round(2.4 * self._size_px)
        self._columns = max(1, width // self._entry_px)
        rows = min(MAX_ROWS, -(-labels.num_labels // self._columns))
        self._line = round(self._size_px * 1.6)
        self.height = rows * self._line + self._size_px // 2
        self._places = rows * self._columns
        self._order: list[int] = []
        self._strip = lru_cache(maxsize=16)(self._drawn)

    def draw(self, shares: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the strip for a frame of which each class has a share of 0 to 1."""
        there = [int(index) for index in np.flatnonzero(shares >= SEEN)]
        self._order += [index for index in there if index not in self._order]
        return self._strip(tuple(self._order), frozenset(there))

    def _drawn(self, order: tuple[int, ...], there: frozenset[int]) -> UInt8[np.ndarray, "h w 3"]:
        canvas = Image.new("RGB", (self._width, self.height), PAPER)
        fits = len(order) <= self._places
        named = order if fits else order[: self._places - 1]
        for place, index in enumerate(named):
            self._entry(canvas, place, self._labels.names[index], self._labels.palette[index], lit=index in there)
        if not fits:
            self._entry(canvas, self._places - 1, f"{len(order) - len(named)} more", PAPER, lit=True)
        return np.asarray(canvas)

    def _entry(self, canvas: Image.Image, place: int, text: str, color: Color, *, lit: bool) -> None:
        draw, px = ImageDraw.Draw(canvas), self._size_px
        left = px // 2 + (place % self._columns) * self._entry_px
        top = px // 2 + (place // self._columns) * self._line
        box = (left, top, left + px - 1, top + px - 1)
        draw.rectangle(box, fill=color if lit else PAPER, outline=MUTED if lit else color, width=max(1, px // 12))
        draw.text(
            (left + round(1.5 * px), top + px // 2), text, fill=INK if lit else FADED, font=font_of(px), anchor="lm"
        )


def _fitted(
    image: UInt8[np.ndarray, "h w 3"], pred: Integer[np.ndarray, "h w"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Integer[np.ndarray, "h2 w2"]]:
    """Bring a frame of a clip whose size changes to the size of the first; ids are never mixed."""
    if pred.shape == size:
        return image, pred
    rows, columns = ((np.arange(new) * old) // new for new, old in zip(size, pred.shape, strict=True))
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized), pred[np.ix_(rows, columns)]
