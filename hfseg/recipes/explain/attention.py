"""What each head of an encoder looks at from one point, in images and clips; called by `hfseg explain`."""

import csv
import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from hfseg.config import Config
from hfseg.engine.checkpoint import write_file
from hfseg.errors import DataError
from hfseg.models import AttentionMap, MemoryMap, attention_maps, has_attention, memory_maps
from hfseg.recipes.explain.clips import Pixels, current, shown_frames
from hfseg.recipes.explain.memory import memory_lines, memory_row
from hfseg.recipes.explain.opened import NamedImages, Opened
from hfseg.video import Clip, VideoWriter, read_ahead
from hfseg.viz import GifStrip, HeadRow, head_grid

QUEUE = 4
"""Frames that are read ahead of the model."""
GIF_WIDTH_PX = 720


class AttentionConfig(Config):
    """From where the heads are looked at, and which of them are drawn."""

    kind: Literal["attention"] = "attention"
    """Picks this explanation."""
    point: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """The pixel (x, y) of the image whose query is shown; its centre where it is not given."""
    stages: tuple[PositiveInt, ...] | None = None
    """Stages of the encoder, from 1 (for a plain transformer: its layers); all that have attention where not given."""
    blocks: Literal["last", "all"] = "last"
    """Of each stage, the last block alone or all of them."""
    scale: Literal["head", "block"] = "head"
    """Whether the colours of each head go up to its own largest weight, or to that of its block."""
    every: PositiveInt = 1
    """Of a clip, each how-manieth frame is shown."""
    gif_frames: Annotated[int, Field(ge=2)] = 40
    """The most frames of a clip's GIF, spread evenly over it."""


def run_attention(config: AttentionConfig, opened: Opened, source: NamedImages | Clip) -> list[Path]:
    """Draw the heads of images, given with their names, or of a clip.

    Writes `NAME-attention.jpg` and `NAME-attention.csv` for an image, `NAME-attention.mp4` and `.gif` for a clip. An
    image in which the point does not lie is named and skipped.

    Raises:
        ModelError: the encoder has no attention, or not in the stages that were asked for.
        DataError: the point lies in none of the images, or a clip has no frames.
    """
    if isinstance(source, Clip):
        return _run_clip(config, opened, source)
    written: list[Path] = []
    refused: DataError | None = None
    for name, pixels in source:
        try:
            looked = look(config, opened, pixels)
        except DataError as error:
            refused = error
            opened.skipped.append(name)
            opened.progress(f"skipped `{name}`: {error.message}")
            continue
        picture, table = (opened.output / f"{name}-attention{ending}" for ending in (".jpg", ".csv"))
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_heads(config, pixels, looked, name=Path(name).name).save(picture, quality=92, subsampling=0)
        write_file(table, table_text(looked))
        written += [picture, table]
    if refused is not None and not written:
        raise refused
    return written


def _run_clip(config: AttentionConfig, opened: Opened, clip: Clip) -> list[Path]:
    film, strip = (opened.output / f"{clip.path.stem}-attention{ending}" for ending in (".mp4", ".gif"))
    gif = GifStrip(max_frames=config.gif_frames, width_px=GIF_WIDTH_PX)
    with read_ahead(shown_frames(clip, opened.segmenter, every=config.every), depth=QUEUE) as frames:
        pictures = ((_picture(config, opened, pixels, clip.path.name), frame.pts) for frame, pixels in frames)
        first = next(pictures, None)
        if first is None:
            raise DataError(f"`{clip.path}` has no frames", hint=next(iter(clip.problems), None))
        size = first[0].size
        with VideoWriter(film, clip, size=(size[1], size[0])) as writer:
            for picture, pts in itertools.chain([first], pictures):
                fitting = picture if picture.size == size else picture.resize(size)  # a clip may change its size
                gif.add(fitting)
                writer.write(np.asarray(fitting), pts)
            writer.finish()
    gif.save(strip, frame_s=config.every / clip.rate)
    return [film, strip]


def _picture(config: AttentionConfig, opened: Opened, pixels: Pixels, name: str) -> Image.Image:
    return draw_heads(config, pixels, look(config, opened, pixels), name=name)


@dataclass(frozen=True)
class Looked:
    """The attention maps of one image, in the pixels that the model saw, and how large these are on the image."""

    maps: tuple[AttentionMap, ...]
    """Those of the encoder; none where it has no attention and the model has memory."""
    memory: tuple[MemoryMap, ...]
    """What the block behind it reads of the frames in memory."""
    step: int
    """Frames from one in memory to the next."""
    point: tuple[int, int]
    seen: tuple[int, int]
    """Height and width at which the model saw the image."""
    scale: tuple[float, float]
    """Pixels of the image, down and across, for one pixel that the model saw."""


def look(config: AttentionConfig, opened: Opened, pixels: Pixels) -> Looked:
    """Find what the heads look at, in the whole image at the size to which the protocol brings it; of a clip, from the
    current frame, and what its place reads of the frames before.

    Raises:
        ModelError: the encoder has no attention, or not in the stages that were asked for.
        DataError: the point lies outside the image.
    """
    height, width, _ = current(pixels).shape
    point = config.point or (width // 2, height // 2)
    if point[0] >= width or point[1] >= height:
        raise DataError(f"point {point[0]},{point[1]} lies outside an image of {width} x {height} pixels")
    pixel_values, segmenter = opened.see(pixels), opened.segmenter
    seen = (pixel_values.shape[-2], pixel_values.shape[-1])
    scale = height / seen[0], width / seen[1]
    spot = (point[0] + 0.5) / scale[1], (point[1] + 0.5) / scale[0]
    memory = tuple(memory_maps(segmenter, pixel_values, points=[spot]))
    maps: list[AttentionMap] = []
    if has_attention(segmenter) or not memory or config.stages is not None:
        maps = attention_maps(
            segmenter,
            pixel_values if pixel_values.ndim == 4 else pixel_values[:, -1],
            points=[spot],
            stages=config.stages,
        )
    if config.blocks == "last":
        maps = list({each.stage: each for each in maps}.values())
    return Looked(tuple(maps), memory, segmenter.memory_step, point, seen, scale)


def draw_heads(config: AttentionConfig, pixels: Pixels, looked: Looked, *, name: str) -> Image.Image:
    """Draw one row of panels for each block, and for each grid of cells that is read of memory."""
    image = current(pixels)
    looks = "what each head looks at" if looked.maps else "what is read of memory"
    heading = [f"{name}: {looks} from ({looked.point[0]}, {looked.point[1]})", _sizes(image, looked)]
    rows = [_row(each, looked.scale) for each in looked.maps]
    rows += [memory_row(each, pixels, scale=looked.scale, step=looked.step) for each in looked.memory]
    return head_grid(image, rows, heading=heading, shared_scale=config.scale == "block")


def _sizes(image: UInt8[np.ndarray, "h w 3"], looked: Looked) -> str:
    height, width, _ = image.shape
    seen = f"{looked.seen[1]} x {looked.seen[0]}"
    reduced = "" if looked.seen == (height, width) else f", which the model sees at {seen}"
    return f"image of {width} x {height} px{reduced}; distances and cells in px of the image"


def _row(found: AttentionMap, scale: tuple[float, float]) -> HeadRow:
    view = found.view
    cell = found.key_px[0] * scale[0], found.key_px[1] * scale[1]
    step = found.stride * scale[0], found.stride * scale[1]
    top, left = found.query[0] * step[0], found.query[1] * step[1]
    keys = f"keys on {view.key_grid[0]} x {view.key_grid[1]} cells of {cell[1]:.3g} x {cell[0]:.3g} px"
    return HeadRow(
        title=f"stage {found.stage}, block {found.block}: {view.kind}; {keys}",
        weights=found.dense().numpy(),
        cell_px=cell,
        query_px=(left, top, left + step[1], top + step[0]),
        captions=tuple(_caption(found, head, scale) for head in range(found.num_heads)),
    )


def _caption(found: AttentionMap, head: int, scale: tuple[float, float]) -> tuple[str, ...]:
    largest, distance = float(found.largest[head]), float(found.distance_px[head]) * scale[1]
    times_even = largest * len(found.view.cells)
    lines = [f"head {head + 1}: max {largest:.2g}, {times_even:.3g} x even", f"mean distance {distance:.0f} px"]
    elsewhere = _elsewhere(found)
    if elsewhere:
        lines.append(", ".join(f"{what} {100 * float(share[head]):.0f} %" for what, share in elsewhere.items()))
    return tuple(lines)


def _elsewhere(found: AttentionMap) -> dict[str, Float[Tensor, " heads"]]:
    """What each head takes from what is not on the image: tokens without a place, and padding."""
    named = {what: weights.sum(1) for what, weights in found.view.placeless.items()}
    return named if found.inside.all() else {**named, "padding": found.padding}


def table_text(looked: Looked) -> str:
    """Write a line of CSV for each head: how far it looks on average, in pixels of the image, and what it looks at.

    What is read of memory has a line for each frame, in the place of a head.
    """
    columns = (
        "stage,block,head,attention,dilation,key_rows,key_columns,cells,reach_px,mean_distance_px,max_weight,elsewhere"
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns.split(","))
    for found in looked.maps:
        view, to_image = found.view, looked.scale[1]
        for head in range(found.num_heads):
            away = sum(float(share[head]) for share in _elsewhere(found).values())
            row = (found.stage, found.block, head + 1, view.kind, view.dilation, *view.key_grid, len(view.cells))
            numbers = (found.reach_px * to_image, float(found.distance_px[head]) * to_image)
            shares = (float(found.largest[head]), away)
            writer.writerow([*row, *(f"{number:.1f}" for number in numbers), *(f"{share:.6f}" for share in shares)])
    for line in (line for found in looked.memory for line in memory_lines(found, looked.scale[1], step=looked.step)):
        writer.writerow(line)
    return buffer.getvalue()
