"""Animated GIFs of clips of any length, in bounded memory."""

from fractions import Fraction
from pathlib import Path

from PIL import Image

COLORS = 128
"""Colours of a frame: half of what a GIF can have, a quarter less bytes, and no difference that is seen."""
SLOWEST_MS = 200
"""A long clip is shown faster than it was: a frame of a GIF stays no longer than this."""


class GifStrip:
    """Collects frames spread evenly over a clip, and writes them as one GIF.

    No more than `max_frames` are held: when there are more, every second one is dropped, and from then on only every
    second of those that come is taken.
    """

    def __init__(self, *, max_frames: int, width_px: int) -> None:
        """Collect frames reduced to at most `width_px`."""
        self._max_frames, self._width_px = max_frames, width_px
        self._frames: list[Image.Image] = []
        self._step, self._count = 1, 0

    def add(self, frame: Image.Image) -> None:
        """Take the next frame of the clip; all have one size."""
        if self._count % self._step == 0:
            if len(self._frames) == self._max_frames:
                self._frames = self._frames[::2]
                self._step *= 2
            if self._count % self._step == 0:
                self._frames.append(self._reduced(frame))
        self._count += 1

    def save(self, path: Path, *, frame_s: Fraction) -> None:
        """Write the GIF, which repeats for ever; `frame_s` is the time between two frames that were added, in seconds.

        Raises:
            ValueError: there are no frames.
        """
        if not self._frames:
            raise ValueError("a GIF needs frames: got none")
        shown_ms = min(SLOWEST_MS, max(20, round(1000 * frame_s * self._step)))
        first, *others = self._frames
        first.save(path, save_all=True, append_images=others, duration=shown_ms, loop=0, optimize=False)

    def _reduced(self, frame: Image.Image) -> Image.Image:
        scale = min(1.0, self._width_px / frame.width)
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        return frame.resize(size, Image.Resampling.LANCZOS).quantize(COLORS, dither=Image.Dither.NONE)
