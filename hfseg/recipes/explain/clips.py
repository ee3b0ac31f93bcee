"""What a model with memory is shown to see one frame: the frame, and those before it as it was trained to read them.

Frames of a clip have the frames before them, across no cut. An image by itself is shown as an image, as when it is
predicted: the frame reads itself, so that all that speaks for a class lies in it.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from hfseg.models import Segmenter
from hfseg.values import places_before
from hfseg.video import Clip, CutDetector, Frame

Pixels = UInt8[np.ndarray, "*t h w 3"]
"""An image, or the frames of a clip, the oldest first and the current one last."""


def current(pixels: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    """Give the image, or the current frame."""
    return pixels if pixels.ndim == 3 else pixels[-1]


def shown_frames(clip: Clip, segmenter: Segmenter, *, every: int) -> Iterator[tuple[Frame, Pixels]]:
    """Give the first frame of a clip and each `every`-th after it, and what the model is shown to see it.

    The frames in memory are as far apart as those of its training, whatever `every` is; a cut ends them.
    """
    count, step = segmenter.memory_frames or 0, segmenter.memory_step
    if not count:
        yield from ((frame, frame.image) for frame in clip.frames(every=every))
        return
    cuts, before = CutDetector(), deque[UInt8[np.ndarray, "h w 3"]](maxlen=count * step)
    for frame in clip.frames():
        if cuts.is_cut(frame.image):
            before.clear()
        if frame.index % every == 0:
            there = [*before, frame.image]
            places = [*places_before(len(before), count, step=step), len(before)]
            yield frame, np.stack([there[place] for place in places])
        before.append(frame.image)
