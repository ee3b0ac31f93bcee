"""Pictures of the images that a model predicts worst."""

import textwrap

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from hfseg.labels import LabelSpace
from hfseg.viz.layout import read_layout
from hfseg.viz.legend import INK, MUTED, PAPER, font_of
from hfseg.viz.numbers import count, percent
from hfseg.viz.overlay import side_by_side

SIZE_PX = 22


def worst_picture(
    image: UInt8[np.ndarray, "h w 3"],
    pred: Integer[np.ndarray, "h w"],
    label_ids: Integer[np.ndarray, "h w"],
    labels: LabelSpace,
    *,
    heading: tuple[str, str],
) -> Image.Image:
    """Show `image | labels | prediction | error` the way `side_by_side` does, below two lines of `worst_heading`."""
    panels = side_by_side(image, pred, label_ids, labels)
    line = round(1.6 * SIZE_PX)
    letters = max(20, int(panels.width / (0.56 * SIZE_PX)))
    texts = [(part, ink) for text, ink in zip(heading, (INK, MUTED), strict=True) for part in _wrapped(text, letters)]
    canvas = Image.new("RGB", (panels.width, len(texts) * line + SIZE_PX // 2 + panels.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (text, ink) in enumerate(texts):
        draw.text((SIZE_PX // 2, place * line + line // 2 + 2), text, fill=ink, font=font_of(SIZE_PX), anchor="lm")
    top = canvas.height - panels.height
    canvas.paste(panels, (0, top))
    layout = read_layout(panels)
    return canvas if layout is None else layout.below(heading, height_px=top).write(canvas)


def worst_heading(image_id: str, mean_iou: float, *, rank: int, num_images: int, protocol: str) -> tuple[str, str]:
    """Say which image this is and how bad it is, and in a second line among how many and by which protocol.

    `rank` is 1 for the worst image; `mean_iou` is the mean over the classes of this image.
    """
    place = "worst" if rank == 1 else f"number {rank} from the worst"
    return (
        f"{image_id}: mIoU {percent(mean_iou)}",
        f"{place} of {count(num_images)} images, each scored alone; {protocol}",
    )


def _wrapped(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters) or [""]
