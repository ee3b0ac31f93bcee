"""Threads that read ahead and write behind: order, bounds, errors of either side; and memory over a long clip."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from hfseg.video import read_ahead, write_behind

LONG = """
import json, resource, sys
from pathlib import Path
import numpy as np
from hfseg.engine.stop import StopWish
from hfseg.labels import LabelSpace
from hfseg.recipes.clip_output import VideoConfig
from hfseg.recipes.predict.video import predict_clip
from hfseg.video import Frame, VideoFile

class Long(VideoFile):
    def frames(self, *, every=1):
        for start in range(self.times):
            for frame in super().frames(every=every):
                yield Frame(frame.image, start * 200 + frame.index, start * 200 * 3600 + frame.pts)

class Even:
    def predict(self, image):
        return np.zeros(image.shape[:2], np.int32)
    def reset(self):
        pass

labels = LabelSpace.from_names(["a", "b"])
peaks = []
for times in (1, 4):
    clip = Long(Path(sys.argv[1]))
    clip.times = times
    found = predict_clip(clip, Even(), labels, VideoConfig(), Path(sys.argv[2]) / "long", about={}, wish=StopWish())
    peaks.append((found.consistency["frames"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
print(json.dumps(peaks))
"""


def threads():
    return {thread.name for thread in threading.enumerate()} & {"reader", "writer"}


def test_items_come_in_their_order_and_never_more_than_depth_ahead():
    made, taken = [], []

    def source():
        for number in range(50):
            made.append(number)
            yield number

    with read_ahead(source(), depth=3) as items:
        for item in items:
            taken.append(item)
            time.sleep(0.001)
            assert len(made) - len(taken) <= 4, "three that wait, and one in the reader's hand"
    assert taken == list(range(50))


def test_an_error_of_the_reader_comes_after_the_items_before_it():
    def source():
        yield from (1, 2)
        raise KeyError("broken")

    with read_ahead(source(), depth=4) as items:
        taken = [next(items), next(items)]
        with pytest.raises(KeyError, match="broken"):
            next(items)
    assert taken == [1, 2]
    assert not threads()


def test_a_reader_that_is_no_longer_needed_ends():
    def source():
        while True:
            yield 0

    with read_ahead(source(), depth=2) as items:
        next(items)
    assert not threads()


def test_everything_handed_over_is_written_in_order():
    written = []

    def write(item):
        time.sleep(0.001)
        written.append(item)

    with write_behind(write, depth=2) as hand_over:
        for number in range(30):
            hand_over(number)
            assert number - len(written) <= 3
    assert written == list(range(30))


def test_an_error_of_the_writer_stops_the_one_who_hands_over():
    def write(item):
        if item == 3:
            raise OSError("disk full")

    handed = []

    def hand_all():
        with write_behind(write, depth=2) as hand_over:
            for number in range(1000):
                hand_over(number)
                handed.append(number)

    with pytest.raises(OSError, match="disk full"):
        hand_all()
    assert len(handed) < 10
    assert not threads()


def test_an_error_of_the_writer_at_the_last_item_is_raised_at_the_end():
    def write(item):
        time.sleep(0.02)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), write_behind(write, depth=2) as hand_over:
        hand_over(0)


def test_after_an_error_in_the_middle_both_threads_end():
    written = []

    def write(item):
        time.sleep(0.1)
        written.append(item)

    def break_off():
        with read_ahead(iter(range(100)), depth=4) as items, write_behind(write, depth=4) as hand_over:
            for item in items:
                hand_over(item)
                if item == 4:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert len(written) < 5
    assert not threads()


def test_reading_computing_and_writing_happen_at_once():
    together = threading.Barrier(3, timeout=60)  # broken unless three items are under way at once, ten times

    def source():
        for number in range(12):
            if number >= 2:
                together.wait()
            yield number

    def write(item):
        if item < 10:
            together.wait()

    with read_ahead(source(), depth=4) as items, write_behind(write, depth=4) as hand_over:
        for item in items:
            if 1 <= item < 11:
                together.wait()
            hand_over(item)
    assert not together.broken


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    pytest.importorskip("av")
    from clips import write_clip

    clip = write_clip(
        tmp_path / "clip.mp4", times=range(0, 200 * 3600, 3600), size=(240, 320), options={"preset": "ultrafast"}
    )
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(clip), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    (short, before), (long, after) = json.loads(done.stdout)
    assert (short, long) == (200, 800)
    assert after - before < 24, f"{before:.0f} -> {after:.0f} MB: 600 more frames take 138 MB, their masks 184 MB"
