"""Frames of a video file, in constant memory, each at its own time."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hfseg.errors import DataError
from hfseg.video.clip import Frame

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm"}
    | {".wmv"}
)


def require_av() -> Any:
    """Import PyAV.

    Raises:
        DataError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise DataError("videos need `av` (PyAV), which is not installed", hint="pip install 'hfseg[video]'") from None
    return av


class VideoFile:
    """A file that FFmpeg's libraries can read.

    Frames come upright: a rotation in the file is applied. Times are those of the file, whatever its rate does; where
    a frame has none, or one that is not after the one before, it is put right and noted. What cannot be decoded is
    left out and named in `problems`: a file may end early, or have broken packets.
    """

    def __init__(self, path: Path) -> None:
        """Read the file's header.

        Raises:
            DataError: PyAV is missing, or the file is no video, or has no video stream.
        """
        self._av = require_av()
        self.path = path
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._broken, self._stopped = 0, ""
        with self._open() as container:
            stream = self._stream(container)
            self.time_base: Fraction = stream.time_base
            self.rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.pixel_aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
            self.num_frames: int | None = stream.frames or None
            self.sound: Path | None = path if container.streams.audio else None
            self._end_s = _end_s(container, stream)

    def frames(self, *, every: int = 1) -> Iterator[Frame]:
        """Decode the frames: the first, and each `every`-th after it.

        Raises:
            DataError: not one frame can be decoded.
        """
        clock = _Clock(self.time_base, self.rate)
        with self._open() as container:
            stream = self._stream(container)
            for index, picture in enumerate(self._pictures(container, stream)):
                pts = clock.next(picture.pts)
                if index % every == 0:
                    yield Frame(self._upright(picture), index, pts)
        if clock.count == 0:
            raise DataError(f"`{self.path}` has no frame that can be decoded")
        for note in clock.notes():
            self._note(note)
        if broken := self._broken_text(clock):
            self.problems.append(f"`{self.path}` {broken}")

    def _broken_text(self, clock: "_Clock") -> str:
        said = []
        if self._broken:
            packets = "one packet" if self._broken == 1 else f"{self._broken} packets"
            said.append(f"has {packets} that cannot be decoded")
        if self._stopped or self._ends_early(clock):
            expected = f" of {self.num_frames}" if self.num_frames else ""
            why = f" ({self._stopped})" if self._stopped else ""
            said.append(f"ends early{why}: {clock.count}{expected} frames are there")
        return " and ".join(said)

    def _ends_early(self, clock: "_Clock") -> bool:
        """Compare with what the header says: an edit list may leave out frames, so the time is asked too."""
        if self._end_s is None or (self.num_frames is not None and clock.count >= self.num_frames):
            return False
        frame_s = float(1 / self.rate)
        tolerance_s = 1.5 * frame_s if self.num_frames is not None else max(0.5, 3 * frame_s)
        return self._end_s - float(clock.end * self.time_base) > tolerance_s

    def _pictures(self, container: Any, stream: Any) -> Iterator[Any]:
        """Give the decoded frames; of broken packets and a broken end, keep what can be decoded."""
        packets, packet = container.demux(stream), None
        self._broken, self._stopped = 0, ""
        while not self._stopped:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self._stopped = error.strerror or str(error)
            if packet is None:
                return
            try:
                decoded = stream.codec_context.decode(None) if self._stopped else packet.decode()
            except self._av.FFmpegError:
                self._broken, decoded = self._broken + 1, []
            self._broken += sum(picture.is_corrupt for picture in decoded)
            yield from decoded

    def _upright(self, picture: Any) -> UInt8[np.ndarray, "h w 3"]:
        image: UInt8[np.ndarray, "h w 3"] = picture.to_ndarray(format="rgb24")
        turns, rest = divmod(round(picture.rotation), 90)
        if rest:
            self._note(f"a rotation by {picture.rotation} degrees is not applied: expected a multiple of 90")
        elif turns % 4:
            self._note(f"turned by {picture.rotation} degrees, as the file says")
            image = np.ascontiguousarray(np.rot90(image, turns))
        return image

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _open(self) -> Any:
        try:
            return self._av.open(str(self.path))
        except (self._av.FFmpegError, OSError) as error:
            reason = error.strerror or error
            hint = "an mp4 that was cut off before its index was written cannot be opened by anything"
            raise DataError(f"video `{self.path}` cannot be opened: {reason}", hint=hint) from None

    def _stream(self, container: Any) -> Any:
        """Find the video stream; a cover picture is none."""
        cover = self._av.stream.Disposition.attached_pic
        found = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not found:
            kinds = ", ".join(f"{stream.type}" for stream in container.streams) or "nothing"
            raise DataError(f"`{self.path}` has no video stream: got {kinds}")
        found[0].thread_type = "SLICE"  # threads over frames would take the model's cores, and hold frames back
        return found[0]


class _Clock:
    """Gives each frame a time after that of the frame before it."""

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self.count = 0
        self.end = 0
        self._step = max(1, round(1 / (rate * time_base)))
        self._last: int | None = None
        self._guessed = 0
        self._gaps: tuple[int, int] | None = None

    def next(self, pts: int | None) -> int:
        """Give the time of the next frame, for which the file says `pts`."""
        if pts is None or (self._last is not None and pts <= self._last):
            self._guessed += 1
            pts = 0 if self._last is None else self._last + (self._step if pts is None else 1)
        if self._last is not None:
            gap = pts - self._last
            low, high = self._gaps or (gap, gap)
            self._gaps = min(low, gap), max(high, gap)
        self._last, self.count, self.end = pts, self.count + 1, pts + self._step
        return pts

    def notes(self) -> list[str]:
        """Say what was unusual."""
        said = []
        if self._gaps is not None and self._gaps[1] - self._gaps[0] > max(1, self._step // 20):
            said.append("the frame rate varies: every frame keeps its time")
        if self._guessed:
            said.append(f"{self._guessed} frames have no time, or one out of order: put after the frame before")
        return said


def _end_s(container: Any, stream: Any) -> float | None:
    """When the video is said to end, in seconds; None where the header does not say it of this stream."""
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    text = stream.metadata.get("DURATION", "")  # Matroska's: 00:01:02.345000000
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and seconds.replace(".", "").isdigit()):
        return None
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
