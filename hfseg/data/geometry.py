"""Where a training crop lies, and cutting it: one resize of the crop only, labels without interpolation.

The crop is a window of the image as it would be at the drawn scale. Pillow's `resize(box=...)` computes just that
window from the source pixels below it, with the same filter support as a resize of the whole image. The labels of the
window are those under its pixels' centres. Both follow the half-pixel convention, so they stay aligned.

A window may be turned about its middle. Its pixels then come from the resized surroundings, bilinearly, and its labels
still straight from the source.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from hfseg.data.augment import AugmentConfig
from hfseg.data.rare import draw_pixel
from hfseg.sizes import scaled_size
from hfseg.values import Sample

Pixels = tuple[UInt8[np.ndarray, "*t h w 3"], Integer[np.ndarray, "h2 w2"]]
"""An image, or the frames of a clip, and the labels, which may differ in size."""
PAD_COLOR = (124, 116, 104)
"""What fills a crop beyond the image: ImageNet's mean colour, about 0 after normalization."""
TRIES = 10
"""How often a crop is drawn before one that a single class dominates is accepted."""


@dataclass(frozen=True)
class Window:
    """A crop of an image that is resized from `source` to `full` (both height, width).

    Its content is turned about its middle by `angle`, in degrees, counterclockwise.
    """

    source: tuple[int, int]
    full: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    angle: float = 0.0

    @property
    def shrink(self) -> float:
        """By how much the image gets smaller, at least, along either side; below 1 it grows."""
        return min(self.source[0] / self.full[0], self.source[1] / self.full[1])

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the source."""
        down, across = self.source[0] / self.full[0], self.source[1] / self.full[1]
        right = min((self.left + self.width) * across, float(self.source[1]))
        bottom = min((self.top + self.height) * down, float(self.source[0]))
        return self.left * across, self.top * down, right, bottom

    @property
    def affine(self) -> tuple[float, float, float, float, float, float]:
        """Where a place (u, v) of the crop lies in the full image, as Pillow has it: (a u + b v + c, d u + e v + f)."""
        cos, sin = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        u, v = self.width / 2, self.height / 2
        return cos, -sin, self.left + u - cos * u + sin * v, sin, cos, self.top + v - sin * u - cos * v

    @property
    def surroundings(self) -> "Window":
        """The part of the full image that the turned crop lies in, with the neighbours that interpolation needs."""
        a, b, c, d, e, f = self.affine
        corners = [(u, v) for u in (0, self.width) for v in (0, self.height)]
        across, down = [a * u + b * v + c for u, v in corners], [d * u + e * v + f for u, v in corners]
        left, top = max(0, math.floor(min(across)) - 1), max(0, math.floor(min(down)) - 1)
        right, bottom = (
            min(side, math.ceil(max(edges)) + 1) for side, edges in zip(self.full[::-1], (across, down), strict=True)
        )
        return Window(self.source, self.full, top, left, bottom - top, right - left)


def draw_window(
    labels: Integer[np.ndarray, "h w"],
    rng: np.random.Generator,
    augment: AugmentConfig,
    *,
    ignore_index: int,
    odds: Float[np.ndarray, " k"] | None = None,
) -> Window:
    """Draw the scale, the turn and the place of a training crop.

    Places are uniform; with `odds`, the probability of each class of the image, they are uniform among those that hold
    a pixel of a class drawn by it (which a turn about the middle may still take out at a corner). Up to ten places are
    tried until no class takes `max_class_share` or more of the labelled pixels; a place without labelled pixels is
    tried again too.
    Source: `RandomCrop(cat_max_ratio)` of mmsegmentation; `odds` are those of `rare.Rarity`.
    """
    source = (labels.shape[0], labels.shape[1])
    low, high = augment.scale
    full = scaled_size(source, short_side=augment.short_side, scale=float(rng.uniform(low, high)))
    height, width = min(augment.crop[0], full[0]), min(augment.crop[1], full[1])
    angle = float(rng.uniform(-augment.rotate, augment.rotate)) if augment.rotate else 0.0
    window = Window(source, full, 0, 0, height, width, angle)
    for _ in range(TRIES):
        spot = None if odds is None else _scaled(draw_pixel(labels, odds, rng), source, full)
        top, left = _draw_place(rng, full, (height, width), spot)
        window = Window(source, full, top, left, height, width, angle)
        if augment.max_class_share == 1 or (height, width) == full:
            break
        if _largest_share(_labels_in(labels, window, ignore_index, step=8), ignore_index) < augment.max_class_share:
            break
    return window


def _draw_place(
    rng: np.random.Generator, full: tuple[int, int], size: tuple[int, int], spot: tuple[int, int] | None
) -> tuple[int, int]:
    """Draw top and left of a window of `size` within `full`, all that hold the pixel `spot` being equally likely."""
    low, high = (0, 0), (full[0] - size[0], full[1] - size[1])
    if spot is not None:
        low = max(0, spot[0] - size[0] + 1), max(0, spot[1] - size[1] + 1)
        high = min(spot[0], high[0]), min(spot[1], high[1])
    return int(rng.integers(low[0], high[0] + 1)), int(rng.integers(low[1], high[1] + 1))


def _scaled(pixel: tuple[int, int], source: tuple[int, int], full: tuple[int, int]) -> tuple[int, int]:
    """Give the pixel of the full image under which the centre of a source pixel comes to lie."""
    return (2 * pixel[0] + 1) * full[0] // (2 * source[0]), (2 * pixel[1] + 1) * full[1] // (2 * source[1])


def cut_image(
    image: Image.Image, window: Window, crop: tuple[int, int], *, factor: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize the window out of an image whose sides were divided by `factor`, and pad it to `crop`, right and below."""
    pixels = _turned_image(image, window, factor) if window.angle else _resized(image, window, factor)
    if (window.height, window.width) != crop:
        padded = Image.new("RGB", (crop[1], crop[0]), PAD_COLOR)
        padded.paste(pixels)
        pixels = padded
    return np.asarray(pixels)


def cut_labels(
    labels: Integer[np.ndarray, "h w"], window: Window, crop: tuple[int, int], *, ignore_index: int
) -> Integer[np.ndarray, "h2 w2"]:
    """Take the labels under the window's pixels; `ignore_index` pads them to `crop` and stands beyond the image."""
    cut = _labels_in(labels, window, ignore_index)
    if cut.shape == crop:
        return cut
    out = np.full(crop, ignore_index, dtype=labels.dtype)
    out[: window.height, : window.width] = cut
    return out


def train_geometry(sample: Sample, rng: np.random.Generator, augment: AugmentConfig, *, ignore_index: int) -> Sample:
    """Scale, turn, crop and pad a sample at random."""
    window = draw_window(sample.labels, rng, augment, ignore_index=ignore_index)
    image = cut_image(Image.fromarray(sample.image), window, augment.crop)
    labels = cut_labels(sample.labels, window, augment.crop, ignore_index=ignore_index)
    return Sample(np.array(image), labels, sample.id)


def eval_geometry(image: Image.Image, window: Window, *, factor: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """Bring a whole image, whose sides were divided by `factor`, to the window's full size; labels stay as they are."""
    if (image.height, image.width) == window.full:
        return np.asarray(image)
    return cut_image(image, window, window.full, factor=factor)


def whole_window(size: tuple[int, int], *, short_side: int | None) -> Window:
    """Give the window of the whole image (height, width), brought to `short_side`."""
    full = scaled_size(size, short_side=short_side)
    return Window(size, full, 0, 0, *full)


def _resized(image: Image.Image, window: Window, factor: int) -> Image.Image:
    """Resize the window out of an image whose sides were divided by `factor`, not turned."""
    left, top, right, bottom = (edge / factor for edge in window.box)
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return image.resize((window.width, window.height), Image.Resampling.BILINEAR, box=box)


def _turned_image(image: Image.Image, window: Window, factor: int) -> Image.Image:
    """Resize what surrounds a turned window, which keeps its details free of moire, then take the window out of it."""
    surroundings = window.surroundings
    a, b, c, d, e, f = window.affine
    affine = (a, b, c - surroundings.left, d, e, f - surroundings.top)
    return _resized(image, surroundings, factor).transform(
        (window.width, window.height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=PAD_COLOR
    )


def _labels_in(
    labels: Integer[np.ndarray, "h w"], window: Window, ignore_index: int, *, step: int = 1
) -> Integer[np.ndarray, "h2 w2"]:
    """Gather the labels under the centres of the window's pixels, or of every `step`-th of them."""
    if window.angle:
        return _turned_labels(labels, window, ignore_index, step)
    rows = _centres(window.top, window.height, window.full[0], window.source[0], step)
    columns = _centres(window.left, window.width, window.full[1], window.source[1], step)
    band = labels[rows[0] : rows[-1] + 1]  # columns first, of these rows only: three times as fast where labels grow
    cut: Integer[np.ndarray, "h2 w2"] = np.take(
        np.take(band, columns, axis=1, mode="clip"), rows - rows[0], axis=0, mode="clip"
    )
    return cut


def _turned_labels(
    labels: Integer[np.ndarray, "h w"], window: Window, ignore_index: int, step: int
) -> Integer[np.ndarray, "h2 w2"]:
    """Gather the labels under the centres of a turned window's pixels; beyond the image is `ignore_index`."""
    a, b, c, d, e, f = window.affine
    u, v = np.arange(0, window.width, step) + 0.5, np.arange(0, window.height, step)[:, None] + 0.5
    (height, width), full = window.source, window.full
    columns = np.floor((a * u + b * v + c) * (width / full[1])).astype(np.int64)
    rows = np.floor((d * u + e * v + f) * (height / full[0])).astype(np.int64)
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    cut: Integer[np.ndarray, "h2 w2"] = labels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    cut[~is_inside] = ignore_index
    return cut


def _centres(start: int, count: int, full: int, source: int, step: int) -> Integer[np.ndarray, " n"]:
    """Source rows (or columns) under the centres of `count` pixels from `start`: floor((i + 0.5) s / f), exactly."""
    return (2 * np.arange(start, start + count, step) + 1) * source // (2 * full)


def _largest_share(labels: Integer[np.ndarray, "h w"], ignore_index: int) -> float:
    labelled = labels[labels != ignore_index]
    counts = np.bincount(labelled) if labelled.size else np.ones(1)
    return float(counts.max() / counts.sum())
