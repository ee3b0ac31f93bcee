"""Compare the time that a clip takes with the time of the model alone, on the same frames.

    python scripts/bench_video.py MODEL CLIP --frames 60 --rounds 3 --threads 2

The model alone predicts frames that are decoded and in memory. The pipeline decodes, predicts, draws, encodes and writes
them. Rounds of both take turns; the fastest of each counts, because other work on the machine only adds to them. The
processor time says how much more there is to do, whatever else ran.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it

import torch

from hfseg.engine.inference import WholeConfig
from hfseg.engine.stop import StopWish
from hfseg.models import open_model
from hfseg.recipes.clip_output import VideoConfig
from hfseg.recipes.predict.video import ModelFrames, predict_clip
from hfseg.recipes.run import RunFolder
from hfseg.video import Frame, VideoFile


class Start(VideoFile):
    """The first frames of a video file."""

    count = 0

    def frames(self, *, every: int = 1) -> Iterator[Frame]:
        """Give the first `count` of the frames."""
        yield from islice(super().frames(every=every), self.count)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Give the seconds that passed, and those of all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print both times, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--view", default="side")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    segmenter, labels = open_model(given.model)
    folder = RunFolder.of_model(given.model)
    predictor = ModelFrames(segmenter, folder.settings().protocol if folder else WholeConfig())
    clip = Start(given.clip)
    clip.count = given.frames
    images = [frame.image for frame in clip.frames()]
    predictor.predict(images[0])
    alone, whole = [], []
    with tempfile.TemporaryDirectory() as output:
        config = VideoConfig(view=given.view)
        for _ in range(given.rounds):
            alone.append(timed(lambda: [predictor.predict(image) for image in images]))
            clip.problems.clear()
            whole.append(
                timed(
                    lambda: predict_clip(
                        clip, predictor, labels, config, Path(output) / "clip", about={}, wish=StopWish()
                    )
                )
            )
    ms = 1000 / len(images)
    for name, rounds in (("model alone", alone), ("pipeline", whole)):
        wall, cpu = (min(column) * ms for column in zip(*rounds, strict=True))
        print(f"{name:<12} {wall:7.1f} ms a frame, {cpu:7.1f} ms of processor")
    ratios = [min(w[i] for w in whole) / min(a[i] for a in alone) for i in (0, 1)]
    size = f"{images[0].shape[1]} x {images[0].shape[0]}"
    print(f"ratio        {ratios[0]:.3f} ({ratios[1]:.3f} of processor time); {len(images)} frames of {size}")


if __name__ == "__main__":
    main()
