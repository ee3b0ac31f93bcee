"""Single frames of a video file, by their number: PyAV finds and decodes them, and they go on as images do.

A frame far from the last one is decoded from the key frame before it. For training, frames that `ffmpeg` has written as
images are read faster.
"""

import os
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hfseg.errors import DataError

VIDEO = "video://"
VIDEO_ENDINGS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mxf", ".webm"}
_KEPT, _OPEN = 8, 32
"""Frames that each reader keeps decoded, since clips share them, and readers that a process keeps, one a thread."""
_AHEAD = 32
"""Frames that are decoded in passing rather than looked for anew."""


def frame_path(number: int, video_path: Path) -> str:
    """Write the path of one frame, counted from 0."""
    return f"{VIDEO}{number}::{video_path}"


def split_frame_path(path: str) -> tuple[int, Path]:
    """Read what `frame_path` wrote."""
    number, _, video_path = path.removeprefix(VIDEO).partition("::")
    return int(number), Path(video_path)


def count_frames(video_path: Path) -> int:
    """Count the frames of a video, without decoding them.

    Raises:
        DataError: PyAV is missing, or the file is no video.
    """
    return len(_opened(video_path, os.getpid(), threading.get_ident()).times)


def frame_file(path: str) -> bytes:
    """Decode one frame, and give it as the bytes of a PPM file, which is a header and the pixels.

    Raises:
        DataError: PyAV is missing, the file is no video, or the frame cannot be decoded.
    """
    number, video_path = split_frame_path(path)
    image = _opened(video_path, os.getpid(), threading.get_ident()).frame(number)
    return b"P6 %d %d 255\n" % image.shape[1::-1] + image.tobytes()


class _Footage:
    """A video that is open in one thread of one process."""

    def __init__(self, path: Path) -> None:
        self._av = _pyav()
        self._path = path
        self._next = 0  # the number of the frame that is decoded next
        self._kept: OrderedDict[int, UInt8[np.ndarray, "h w 3"]] = OrderedDict()
        try:
            with self._av.open(str(path)) as container:
                packets = container.demux(self._stream(container))
                shown = (packet for packet in packets if packet.pts is not None and not packet.is_discard)
                self.times = sorted(packet.pts for packet in shown)
            self._places = {time: place for place, time in enumerate(self.times)}
            self._container = self._av.open(str(path))
            self._decoded = self._container.decode(self._stream(self._container))
            self._pass(0)  # by the first frame, FFmpeg knows whose faults it has to mend in those after a seek
        except (self._av.FFmpegError, OSError, StopIteration) as error:
            raise DataError(f"video `{path}` cannot be read: {_reason(error)}") from None

    def frame(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode a frame, upright.

        Raises:
            DataError: there is no such frame, or it cannot be decoded.
        """
        if number in self._kept:
            return self._kept[number]
        if not 0 <= number < len(self.times):
            raise DataError(f"`{self._path}` has no frame {number}: expected 0 to {len(self.times) - 1}")
        try:
            if not self._next <= number < self._next + _AHEAD:
                stream = self._stream(self._container)
                self._container.seek(self.times[number], stream=stream, backward=True)
                self._decoded = self._container.decode(stream)
            while number not in self._kept:
                self._pass(number)
        except (self._av.FFmpegError, StopIteration) as error:
            self._next = len(self.times)
            raise DataError(f"frame {number} of `{self._path}` cannot be decoded: {_reason(error)}") from None
        return self._kept[number]

    def _pass(self, number: int) -> None:
        """Decode the next frame, and keep it where it is `number` or just before it."""
        picture = next(self._decoded)
        place = self._places.get(picture.pts)
        if place is None:
            return
        self._next = place + 1
        if place > number - _KEPT:
            turned = np.rot90(picture.to_ndarray(format="rgb24"), round(picture.rotation / 90))
            self._kept[place] = np.ascontiguousarray(turned)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _stream(self, container: Any) -> Any:
        if not container.streams.video:
            raise DataError(f"`{self._path}` has no video stream")
        return container.streams.video[0]


@lru_cache(maxsize=_OPEN)
def _opened(path: Path, process_id: int, thread: int) -> _Footage:
    """Keep a video open in each thread of each process: a decoder has a position that they would share."""
    return _Footage(path)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise DataError("videos need `av` (PyAV), which is not installed", hint="pip install 'hfseg[video]'") from None
    return av


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it ends early"
