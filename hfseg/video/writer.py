"""An H.264 file of frames at their own times, with the sound of another file beside them."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hfseg.errors import ConfigError, RunFailed
from hfseg.video.clip import Clip
from hfseg.video.reader import require_av

PRESET = "veryfast"
"""Of x264: 26 ms of one core for a frame of 1932 x 670, and files half as large as those of `superfast` (18 ms)."""
BT709 = 1
"""The number of this matrix, these primaries and this transfer in H.264; 1 is limited range too."""


class VideoWriter:
    """Writes an mp4 that plays everywhere: H.264, yuv420p, its index at the front.

    Closed in the normal way or after an error, the file holds what was written so far and plays.
    """

    def __init__(self, path: Path, clip: Clip, *, size: tuple[int, int], every: int = 1, crf: int = 20) -> None:
        """Create the file for each `every`-th frame of a clip, of `size` (height, width), and the clip's sound.

        Raises:
            ConfigError: the file is the clip itself.
            DataError: PyAV is missing.
            RunFailed: the file cannot be created.
        """
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"frames of {size[0]} x {size[1]} pixels: expected even sides, because colour is halved")
        if path.exists() and clip.path.exists() and path.samefile(clip.path):
            raise ConfigError(f"`{path}` would replace the video it is made from", hint="give another --output")
        self._av, self.path, self._time_base, self._end = require_av(), path, clip.time_base, Fraction(0)
        rate = clip.rate / every
        self._frame_s = 1 / rate
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = self._av.open(str(path), "w", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": PRESET})
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.time_base, codec.sample_aspect_ratio = clip.time_base, clip.pixel_aspect
        codec.colorspace = codec.color_range = codec.color_primaries = codec.color_trc = BT709
        self._sound = None if clip.sound is None else _Sound(clip.sound, self._container, self._av)

    @property
    def notes(self) -> list[str]:
        """What of the sound could not be kept."""
        return [] if self._sound is None else self._sound.notes()

    def write(self, image: UInt8[np.ndarray, "h w 3"], pts: int) -> None:
        """Encode a frame that is shown at `pts`, in units of the clip's time base.

        Raises:
            RunFailed: the disk is full, or the file cannot be written for another reason.
        """
        picture = self._av.VideoFrame.from_ndarray(image, "rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
        picture.pts, picture.time_base = pts, self._time_base
        picture.duration = round(self._frame_s / self._time_base)
        self._end = pts * self._time_base + self._frame_s
        with self._told():
            self._container.mux(self._stream.encode(picture))
            if self._sound is not None:
                self._sound.copy_until(self._end)

    def finish(self) -> None:
        """Copy the sound that is left after the last frame: of a clip that was written to its end."""
        if self._sound is not None:
            with self._told():
                self._sound.copy_until(None)

    def close(self) -> None:
        """Write what the encoder holds back and the index."""
        with self._told():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        if self._sound is not None:
            self._sound.close()

    def _told(self) -> "_Told":
        return _Told(self.path, self._av.FFmpegError)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Told:
    """Turns errors of FFmpeg into one that names the file."""

    def __init__(self, path: Path, kind: type[Exception]) -> None:
        self._path, self._kind = path, kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (self._kind, OSError)):
            raise RunFailed(f"video `{self._path}` cannot be written: {getattr(error, 'strerror', None) or error}")


class _Sound:
    """Copies the sound of a file, undecoded, up to the time that the frames have reached."""

    def __init__(self, path: Path, container: Any, av: Any) -> None:
        self._unfit: list[str] = []
        self._damaged = 0
        self._av = av
        self._source = av.open(str(path))
        self._targets: dict[int, Any] = {}
        for stream in self._source.streams.audio:
            name = stream.codec_context.name
            if stream.codec_context.codec.canonical_name in container.supported_codecs:
                self._targets[stream.index] = container.add_stream_from_template(stream)
            else:
                self._unfit.append(f"sound `{name}` does not fit into an mp4 and is left out")
        self._container = container
        self._packets = self._read()
        self._next: Any = next(self._packets, None)

    def notes(self) -> list[str]:
        """What could not be copied."""
        return [*self._unfit, *([f"{self._damaged} damaged packets of sound are left out"] if self._damaged else [])]

    def copy_until(self, end_s: Fraction | None) -> None:
        """Copy what begins before `end_s`, everything where it is None."""
        while self._next is not None and (end_s is None or self._next.dts * self._next.time_base < end_s):
            self._next.stream = self._targets[self._next.stream.index]
            try:
                self._container.mux(self._next)
            except self._av.error.InvalidDataError:
                self._damaged += 1
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _read(self) -> Iterator[Any]:
        """Give the packets; a file that breaks off has sound up to there."""
        if not self._targets:
            return
        packets = self._source.demux([self._source.streams[index] for index in self._targets])
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError:
                return
            if packet is None:
                return
            if packet.dts is not None:
                yield packet
