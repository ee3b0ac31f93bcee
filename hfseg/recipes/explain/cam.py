"""Class activation of images and clips, as pictures; called by `hfseg explain`."""

import itertools
import re
from pathlib import Path

import numpy as np

from hfseg.errors import DataError
from hfseg.recipes.explain.activation import CamConfig, Explained, Explainer
from hfseg.recipes.explain.check import check_explanation
from hfseg.recipes.explain.clips import Pixels, shown_frames
from hfseg.recipes.explain.opened import Line, NamedImages, Opened, list_pictures
from hfseg.video import Clip, VideoWriter, read_ahead
from hfseg.viz import GifStrip

QUEUE = 4
"""Frames that are read ahead of the model."""
GIF_WIDTH_PX = 480


def run_cam(config: CamConfig, opened: Opened, source: NamedImages | Clip) -> list[Path]:
    """Draw what speaks for a class in images, given with their names, or in a clip.

    Writes `NAME-cam-CLASS.jpg` for an image, `NAME-cam-CLASS.mp4` and `.gif` for a clip; with `check`,
    `NAME-check-CLASS.png` and `.json`. An image in which the class is not predicted is named and skipped.

    Raises:
        DataError: the class is unknown, or predicted in none of the images.
        ModelError: the layer is unknown, or has no map.
    """
    explainer = Explainer(config, opened)
    if isinstance(source, Clip):
        return _run_clip(config, opened, explainer, source)
    written: list[Path] = []
    refused: DataError | None = None
    for name, pixels in source:
        explained = explainer.explain(pixels)
        if explained.heat is None:
            refused = _absent(opened, explained, name)
            opened.skipped.append(name)
            opened.progress(f"skipped: {refused.message}")
            continue
        written += _write(config, opened, explainer, (name, pixels), explained)
    if refused is not None and not written:
        raise refused
    return written


def _write(
    config: CamConfig, opened: Opened, explainer: Explainer, named: tuple[str, Pixels], explained: Explained
) -> list[Path]:
    name, pixels = named
    label = opened.space.names[explained.class_id]
    path = opened.output / f"{name}-cam-{word(label)}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    explainer.picture(pixels, explained, name=Path(name).name).save(path, quality=92, subsampling=0)
    title = explainer.title(explained, Path(name).name)
    list_pictures(opened.output, [Line(str(path.relative_to(opened.output)), "cam", title, explainer.note(explained))])
    if not config.check:
        return [path]
    stem = opened.output / f"{name}-check-{word(label)}"
    return [path, *check_explanation(config, opened, explainer, pixels, explained, stem)]


def _absent(opened: Opened, explained: Explained, name: str) -> DataError:
    """Say that a class is predicted nowhere, and what can be done about it."""
    label = opened.space.names[explained.class_id]
    return DataError(
        f"`{name}`: class `{label}` is predicted nowhere, so its pixels cannot be explained",
        hint="--region image explains its score over the whole image, --region X,Y at a pixel",
    )


def _run_clip(config: CamConfig, opened: Opened, explainer: Explainer, clip: Clip) -> list[Path]:
    gif = GifStrip(max_frames=config.gif_frames, width_px=GIF_WIDTH_PX)
    name, shown, count = clip.path.stem, 0, 0
    with read_ahead(shown_frames(clip, opened.segmenter, every=config.every), depth=QUEUE) as frames:
        first = next(frames, None)
        if first is None:
            raise DataError(f"`{clip.path}` has no frames", hint=next(iter(clip.problems), None))
        explained = explainer.explain(first[1], keep_class=True)
        label = opened.space.names[explained.class_id]
        film, strip = (opened.output / f"{name}-cam-{word(label)}{ending}" for ending in (".mp4", ".gif"))
        size = explainer.frame(first[1], explained, name=name).size
        with VideoWriter(film, clip, size=(size[1], size[0])) as writer:
            for frame, pixels in itertools.chain([first], frames):
                explained = explainer.explain(pixels)
                picture = explainer.frame(pixels, explained, name=name)
                picture = picture if picture.size == size else picture.resize(size)  # a clip may change its size
                gif.add(picture)
                writer.write(np.asarray(picture), frame.pts)
                shown, count = shown + (explained.heat is not None), count + 1
            writer.finish()
    gif.save(strip, frame_s=config.every / clip.rate)
    caption = f"`{label}` is predicted in {shown} of {count} frames; colours go up to each frame's own largest value"
    for text in (*clip.notes, *clip.problems, *writer.notes, f"{film}: {caption}"):
        opened.progress(text)
    list_pictures(
        opened.output, [Line(path.name, "cam", explainer.what(explained, name), caption) for path in (film, strip)]
    )
    return [film, strip]


def word(label: str) -> str:
    """A class's name as a part of a file's name."""
    return re.sub(r"[^\w-]+", "-", label).strip("-") or "class"
