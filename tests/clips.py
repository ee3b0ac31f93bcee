"""Short clips whose frames say which they are, for tests."""

from fractions import Fraction
from pathlib import Path

import numpy as np

BLOCK = 16
"""Pixels on a side of a block: a macroblock, so that coding keeps black from white."""
TIMES = (0, 3600, 7000, 9999, 20000, 23600, 27200, 60000, 63600, 67200, 70800, 74400)
"""Uneven times, in units of 1/90000 s."""


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Draw a number as 8 black and white blocks in the two upper rows of blocks, on a grey that depends on nothing."""
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(8):
        top, left = BLOCK * (bit // 4), BLOCK * (bit % 4)
        image[top : top + BLOCK, left : left + BLOCK] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """Read the number from a frame that may have been coded twice."""
    return sum(
        int(image[BLOCK * (bit // 4) + BLOCK // 2, BLOCK * (bit % 4) + BLOCK // 2].mean() > 128) << bit
        for bit in range(8)
    )


def write_clip(
    path: Path, *, times=TIMES, size=(48, 64), draw=picture, sound: str | None = None, matrix=None, options=None
) -> Path:
    """Write a clip with a frame at each of the times, and a tone of `sound` (a codec) below it."""
    import av

    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"crf": "12", "preset": "ultrafast"} | (options or {})
        )
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        tone = container.add_stream(sound, rate=44100, layout="stereo") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            container.mux(_tone(tone, seconds=times[-1] / 90000))
    return path


def _tone(stream, *, seconds: float) -> list:
    import av

    packets = []
    for start in range(0, int(seconds * 44100), 1024):
        wave = np.sin(np.arange(start, start + 1024) * 0.06).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def decode(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Give the time in seconds and the pixels of every frame."""
    import av

    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
