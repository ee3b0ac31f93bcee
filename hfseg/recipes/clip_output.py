"""What is written of a clip, frame by frame: a video, index masks, or raw masks on the standard output."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Integer
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config
from hfseg.errors import ConfigError, RunFailed
from hfseg.labels import LabelSpace
from hfseg.metrics import Consistency
from hfseg.recipes.console import say
from hfseg.video import Clip, Frame, VideoWriter
from hfseg.viz import ClipPainter, View, save_index_mask


class VideoConfig(Config):
    """How clips are read, and what is written for them."""

    view: View = "side"
    """What the video shows: frame beside overlay (side), overlay, mask (class colours alone), or original."""
    legend: bool = True
    """Name the classes below the picture."""
    every: PositiveInt = 1
    """Predict the first frame and each such one after it; they keep their times, and so the sound fits."""
    crf: Annotated[int, Field(ge=0, le=51)] = 20
    """Quality of x264: smaller is better and larger; 18 looks like the original, 28 is for the web."""
    masks: bool = False
    """Write the classes of every frame as an index mask too: `STEM-masks/000000.png`, numbered as in the clip."""
    stdout: bool = False
    """Write nothing but the classes of every frame, as raw bytes, to the standard output."""
    as_video: bool = False
    """Take each folder of images as the frames of one clip, in the order of the numbers in their names."""
    fps: PositiveFloat = 25.0
    """Frames per second of a clip that is a folder of images."""

    @model_validator(mode="after")
    def _no_idle_options(self) -> "VideoConfig":
        if "fps" in self.model_fields_set and not self.as_video:
            raise ValueError("`fps` has no effect without `as_video`: a video file has its own times")
        idle = {"view", "legend", "crf", "masks"} & self.model_fields_set
        if self.stdout and idle:
            raise ValueError(f"`{min(idle)}` has no effect with `stdout`: nothing but raw masks is written then")
        return self


@dataclass(frozen=True, slots=True)
class Predicted:
    """A frame, its classes, and whether it begins another scene."""

    frame: Frame
    pred: Integer[np.ndarray, "h w"]
    cut: bool


class ClipOutput:
    """Takes the predictions of a clip, one frame after the other, compares them, and writes what was asked for."""

    def __init__(self, clip: Clip, labels: LabelSpace, config: VideoConfig, stem: Path) -> None:
        self.consistency = Consistency(labels.num_labels)
        self.notes: list[str] = []
        self.written: list[Path] = []
        self._clip, self._labels, self._config, self._stem = clip, labels, config, stem
        self._raw = RawMasks(labels.num_labels, clip) if config.stdout else None
        self._painter: ClipPainter | None = None
        self._video: VideoWriter | None = None

    def write(self, item: Predicted) -> None:
        """Add a frame.

        Raises:
            HfsegError: something cannot be written.
        """
        self.consistency.update(item.pred, index=item.frame.index, cut=item.cut)
        if self._raw is not None:
            self._raw.write(item.pred)
            return
        painter, video = self._opened(item.pred.shape)
        if item.pred.shape != painter.frame_size:
            self._note(f"frames change size: all are drawn at {painter.frame_size[1]} x {painter.frame_size[0]} pixels")
        video.write(painter.paint(item.frame.image, item.pred), item.frame.pts)
        if self._config.masks:
            save_index_mask(item.pred, self._labels, self._masks / f"{item.frame.index:06}.png")

    def finish(self) -> None:
        """Add the sound after the last frame, once the clip has been read to its end."""
        if self._video is not None:
            self._video.finish()

    def close(self) -> None:
        """Close what was opened, so that it holds the frames so far."""
        if self._video is not None:
            self.notes += self._video.notes
            self._video.close()
        if self._raw is not None:
            self._raw.close()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def _masks(self) -> Path:
        return self._stem.with_name(f"{self._stem.name}-masks")

    def _opened(self, size: tuple[int, ...]) -> tuple[ClipPainter, VideoWriter]:
        """Open the video when the size of the first frame is known."""
        if self._painter is None or self._video is None:
            config, (height, width) = self._config, size
            path = self._stem.with_name(f"{self._stem.name}-{config.view}.mp4")
            self._painter = ClipPainter(self._labels, (height, width), view=config.view, legend=config.legend)
            self._video = VideoWriter(path, self._clip, size=self._painter.size, every=config.every, crf=config.crf)
            self.written.append(path)
            if self._painter.padded:
                self.notes.append(f"{width} x {height} pixels: an odd side gets one more, because H.264 halves colour")
            if config.masks:
                self._masks.mkdir(parents=True, exist_ok=True)
                self.written.append(self._masks)
        return self._painter, self._video


class RawMasks:
    """Writes class ids to the standard output: rows from the top, one byte a pixel, nothing before, between or after.

    With more than 256 classes a pixel takes two bytes, the lower one first. While it is open, text that anything prints
    goes to the standard error.
    """

    def __init__(self, num_labels: int, clip: Clip) -> None:
        """Take over the standard output.

        Raises:
            ConfigError: it is a terminal.
        """
        if sys.stdout.isatty():
            raise ConfigError(
                "raw masks would go to the terminal: expected a pipe or a file",
                hint="hfseg predict MODEL CLIP --stdout | ffplay -f rawvideo -pixel_format gray -video_size 960x540 -",
            )
        self._dtype = np.dtype(np.uint8 if num_labels <= 256 else "<u2")
        self._clip, self._size = clip, (0, 0)
        sys.stdout.flush()
        self._handle = os.dup(1)
        os.dup2(2, 1)

    def write(self, pred: Integer[np.ndarray, "h w"]) -> None:
        """Write one frame.

        Raises:
            RunFailed: it has another size than the first, or nobody reads the standard output any more.
        """
        height, width = pred.shape
        if self._size == (0, 0):
            self._size = (height, width)
            rate = float(self._clip.rate)
            text = f"raw masks: {width} x {height} pixels, {self._dtype.name}, {rate:g} frames a second before --every"
            say(text)
        if self._size != (height, width):
            first = f"{self._size[1]} x {self._size[0]}"
            raise RunFailed(f"the frames change size from {first} to {width} x {height}: raw masks need one size")
        rest = memoryview(pred.astype(self._dtype).tobytes())
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            raise RunFailed(f"raw masks cannot be written to the standard output: {error.strerror}") from None

    def close(self) -> None:
        """Give the standard output back."""
        sys.stdout.flush()
        os.dup2(self._handle, 1)
        os.close(self._handle)
