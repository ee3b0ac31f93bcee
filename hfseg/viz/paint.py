"""Colouring pixels: class colours, hatching for what is ignored, outlines, and what is wrong."""

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from hfseg.labels import Color, LabelSpace

HATCH = ((104, 104, 104), (190, 190, 190))
"""The two greys of the stripes that stand for ignored pixels."""
WRONG: Color = (255, 159, 28)
"""Wrong pixels: an orange that differs from the dimmed picture in brightness too, so no colour vision is needed."""
DIM, DARKEST = 0.36, 26
"""Correct pixels are grey, `DIM` of their brightness above `DARKEST`."""
GREY, GREY_DARKEST = 0.5, 20
"""A picture below colours is grey, `GREY` of its brightness above `GREY_DARKEST`."""


def stripe_px(height: int, width: int) -> int:
    """Give the width of one hatching stripe that is seen at the picture's size."""
    return max(2, round(max(height, width) / 110))


def hatch(height: int, width: int, *, stripe: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draw diagonal stripes of two greys."""
    stripes = np.add.outer(np.arange(height), np.arange(width)) // stripe % 2
    colors: UInt8[np.ndarray, "h w 3"] = np.asarray(HATCH, dtype=np.uint8)[stripes]
    return colors


def ignored_pixels(ids: Integer[np.ndarray, "h w"], labels: LabelSpace) -> Bool[np.ndarray, "h w"]:
    """Find the pixels that are no class."""
    return (ids < 0) | (ids >= labels.num_labels)


def class_map(ids: Integer[np.ndarray, "h w"], labels: LabelSpace) -> UInt8[np.ndarray, "h w 3"]:
    """Paint every pixel in its class's colour, and the ignored ones hatched grey."""
    colors = labels.colorize(ids)
    return _put_hatch(colors, ignored_pixels(ids, labels))


def outlines(ids: Integer[np.ndarray, "h w"], *, thickness: int) -> Bool[np.ndarray, "h w"]:
    """Find the pixels within `thickness` px before a change of class to the right or below."""
    edge = np.zeros(ids.shape, dtype=bool)
    for step in range(1, min(thickness, *ids.shape) + 1):
        edge[:, :-step] |= ids[:, :-step] != ids[:, step:]
        edge[:-step] |= ids[:-step] != ids[step:]
    return edge


def error_map(
    image: UInt8[np.ndarray, "h w 3"],
    pred: Integer[np.ndarray, "h w"],
    label_ids: Integer[np.ndarray, "h w"],
    labels: LabelSpace,
) -> UInt8[np.ndarray, "h w 3"]:
    """Dim the picture to dark grey, paint wrong pixels orange and ignored ones hatched."""
    grey = _luminance(image) * DIM + DARKEST
    colors = np.repeat(grey[..., None].round().astype(np.uint8), 3, axis=2)
    colors[pred != label_ids] = WRONG
    return _put_hatch(colors, ignored_pixels(label_ids, labels))


def greyed(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Turn a picture to a quiet grey, over which colours are seen."""
    grey = _luminance(image) * GREY + GREY_DARKEST
    return np.repeat(grey[..., None].astype(np.uint8), 3, axis=2)


def blend(
    image: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "h w 3"], weight: float | Float[np.ndarray, "h w 1"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Mix two pictures; `weight` is the share of `colors`."""
    base = image.astype(np.float32)
    return (base + (colors.astype(np.float32) - base) * np.float32(weight)).round().astype(np.uint8)


def shares(ids: Integer[np.ndarray, "h w"], labels: LabelSpace) -> tuple[Float[np.ndarray, " k"], float]:
    """Give the share of all pixels that each class has, and the share that is ignored."""
    ignored = ignored_pixels(ids, labels)
    pixels = np.bincount(ids[~ignored].astype(np.int64), minlength=labels.num_labels)
    return pixels / ids.size, float(ignored.mean())


def _put_hatch(colors: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = where.shape
    stripes = hatch(height, width, stripe=stripe_px(height, width))
    return np.where(where[..., None], stripes, colors)


def _luminance(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    return image.astype(np.float32) @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
