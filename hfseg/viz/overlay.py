"""Pictures of predictions: index masks, overlays with a legend, and panels side by side."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from hfseg.labels import LabelSpace
from hfseg.viz.layout import Layout, Panel
from hfseg.viz.legend import INK, PAPER, Entry, add_legend, class_entries, font_of
from hfseg.viz.paint import WRONG, blend, class_map, error_map, ignored_pixels, outlines, shares

IGNORE_GREY = (128, 128, 128)
MIN_PANEL_PX, MAX_PANEL_PX = 256, 640
"""Smaller pictures are magnified by a whole factor, larger ones reduced, before they stand side by side."""


def save_index_mask(ids: Integer[np.ndarray, "h w"], labels: LabelSpace, path: Path) -> None:
    """Write class ids as a PNG of the same size: a palette image whose index is the id, in the classes' colours.

    Up to 255 classes are written as bytes, more as 16-bit grey. Ignored pixels keep `ignore_index` where it fits the
    format, and are the largest value (255 or 65535) elsewhere.

    Raises:
        ValueError: an id is neither a class nor `ignore_index`.
    """
    ignored = ignored_pixels(ids, labels)
    if (ids[ignored] != labels.ignore_index).any():
        strangers = np.unique(ids[ignored & (ids != labels.ignore_index)])
        raise ValueError(f"mask has the ids {strangers[:5].tolist()}: expected 0 to {labels.num_labels - 1}")
    dtype = np.uint8 if labels.num_labels <= 255 else np.uint16
    largest = int(np.iinfo(dtype).max)
    stored_ignore = labels.ignore_index if 0 <= labels.ignore_index <= largest else largest
    picture = Image.fromarray(np.where(ignored, stored_ignore, ids).astype(dtype))
    if dtype is np.uint8:
        colors = [*labels.palette, *[IGNORE_GREY] * (256 - labels.num_labels)]
        picture.putpalette([channel for color in colors for channel in color])
    picture.save(path, format="PNG", optimize=True)


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    ids: Integer[np.ndarray, "h w"],
    labels: LabelSpace,
    *,
    alpha: float = 0.5,
    legend: bool = True,
) -> Image.Image:
    """Lay class colours over a picture, `alpha` of 0 (picture) to 1 (colours), with full colour at the outlines.

    The picture keeps its own size; the legend of the classes that occur, with their shares of the pixels, stands below.
    """
    height, width = ids.shape
    edge = outlines(ids, thickness=max(1, round(max(height, width) / 500)))
    weight = np.where(edge, max(alpha, min(1.0, 2 * alpha)), alpha)[..., None]
    picture = Image.fromarray(blend(image, class_map(ids, labels), weight))
    if not legend:
        return picture
    of_class, of_ignore = shares(ids, labels)
    entries = class_entries(labels.names, labels.palette, [of_class.tolist()], [of_ignore])
    return add_legend(picture, entries, size_px=min(96, max(13, width // 36)))


def side_by_side(
    image: UInt8[np.ndarray, "h w 3"],
    pred: Integer[np.ndarray, "h w"],
    labels_ids: Integer[np.ndarray, "h w"] | None,
    label_space: LabelSpace,
) -> Image.Image:
    """Show `image | prediction`, and with labels `image | labels | prediction | error`, with captions and a legend.

    In the error panel correct pixels are dim, wrong ones orange and ignored ones hatched grey; its caption says the
    share of labelled pixels that is wrong, counted at full size. Where the panels lie is kept in the picture: `Layout`.
    """
    pictures = [("image", _fit(image)), ("prediction", class_map(_fit(pred), label_space))]
    columns = [shares(pred, label_space)]
    if labels_ids is not None:
        small = _fit(image), _fit(pred), _fit(labels_ids)
        pictures.insert(1, ("labels", class_map(small[2], label_space)))
        pictures.append((f"error {_error_text(pred, labels_ids, label_space)}", error_map(*small, label_space)))
        columns.append(shares(labels_ids, label_space))
    size_px = min(30, max(13, pictures[0][1].shape[1] // 22))
    strip, panels = _strip(pictures, size_px)
    ignored = [of_ignore for _, of_ignore in columns]
    entries = class_entries(label_space.names, label_space.palette, [c.tolist() for c, _ in columns], ignored)
    heading = "share of pixels"
    if labels_ids is not None:
        entries.append(Entry("wrong (in the error panel)", WRONG))
        heading = "share of pixels: prediction / labels"
    layout = Layout(panels, tuple(entries), heading)
    return layout.write(add_legend(strip, entries, size_px=size_px, heading=heading))


def _error_text(pred: Integer[np.ndarray, "h w"], label_ids: Integer[np.ndarray, "h w"], labels: LabelSpace) -> str:
    kept = ~ignored_pixels(label_ids, labels)
    return f"{100 * (pred != label_ids)[kept].mean():.1f} %" if kept.any() else "without labels"


def _fit(pixels: UInt8[np.ndarray, "h w 3"] | Integer[np.ndarray, "h w"]) -> Any:
    """Bring a picture or a map to panel size; ids are never mixed, and small pictures keep their pixels."""
    height, width = pixels.shape[:2]
    if max(height, width) < MIN_PANEL_PX:
        factor = -(-MIN_PANEL_PX // max(height, width))
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    scale = min(1.0, MAX_PANEL_PX / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if pixels.ndim == 3:
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3))
    rows, columns = ((np.arange(new) + 0.5) * (old / new) for new, old in zip(size, (height, width), strict=True))
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def _strip(
    pictures: list[tuple[str, UInt8[np.ndarray, "h w 3"]]], size_px: int
) -> tuple[Image.Image, tuple[Panel, ...]]:
    """Set pictures of one size in a row, each below its caption; a caption that is too long for its panel is shrunk."""
    height, width = pictures[0][1].shape[:2]
    gap = max(4, width // 60)
    top = round(size_px * 1.7)
    canvas = Image.new("RGB", (len(pictures) * (width + gap) - gap, top + height), PAPER)
    draw = ImageDraw.Draw(canvas)
    panels = []
    for place, (caption, pixels) in enumerate(pictures):
        left = place * (width + gap)
        panels.append(Panel(caption.split()[0], caption, (left, top, left + width, top + height)))
        font = font_of(size_px)
        shrink = min(1.0, (width - gap) / font.getlength(caption))
        draw.text((left + gap // 2, top // 2), caption, fill=INK, font=font_of(int(size_px * shrink)), anchor="lm")
        canvas.paste(Image.fromarray(pixels), (left, top))
    return canvas, tuple(panels)
