"""Many small pictures with their labels on top, in rows."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from hfseg.labels import LabelSpace
from hfseg.viz.legend import PAPER, add_legend, class_entries
from hfseg.viz.overlay import overlay
from hfseg.viz.paint import shares

TILE_PX = 320
"""Longer side of a picture in the grid; larger ones are reduced."""
GAP_PX = 6
ALPHA = 0.4
"""Of the class colours: little enough that a change of colour, blur and noise are seen below them."""

Labelled = tuple[UInt8[np.ndarray, "h w 3"], Integer[np.ndarray, "h w"]]
"""A picture and its class ids."""


def grid(pictures: Sequence[Labelled], labels: LabelSpace, *, columns: int = 4) -> Image.Image:
    """Set pictures of one size in rows, class colours and outlines over each, with one legend for all of them.

    The shares in the legend are those of all the pictures together.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("a grid needs pictures: got none")
    tiles = [_tile(overlay(image, ids, labels, alpha=ALPHA, legend=False)) for image, ids in pictures]
    columns = min(columns, len(tiles))
    width, height = tiles[0].width + GAP_PX, tiles[0].height + GAP_PX
    canvas = Image.new("RGB", (columns * width - GAP_PX, -(-len(tiles) // columns) * height - GAP_PX), PAPER)
    for place, tile in enumerate(tiles):
        canvas.paste(tile, (place % columns * width, place // columns * height))
    of_class, of_ignore = shares(np.concatenate([ids for _, ids in pictures]), labels)
    entries = class_entries(labels.names, labels.palette, [of_class.tolist()], [of_ignore])
    return add_legend(canvas, entries, size_px=15, heading="share of the pixels of these samples")


def _tile(picture: Image.Image) -> Image.Image:
    scale = TILE_PX / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
