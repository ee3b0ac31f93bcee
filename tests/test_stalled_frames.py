"""Twins of frames in which nothing moves: what the proof of memory is trained on."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_data_clips import before, made_frames, numbers

from hfseg.data import FramesConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Twelve, four and four labelled frames, and their twins."""
    source = made_frames(tmp_path_factory.mktemp("road"), numbers(20))
    for name, part in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 20))):
        (source / f"{name}.txt").write_text("\n".join(f"{number:06d}" for number in part), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(
        "build_stalled_frames", Path(__file__).parents[1] / "scripts" / "build_stalled_frames.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (source / "info.json").write_text('{"names": ["road", "car"]}', encoding="utf-8")
    target = source / "stalled"
    counts = script.build(source, target, moving="car", static="road")
    return FramesConfig(data_dir=source), FramesConfig(data_dir=target, frame_step=2), counts


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_twin_is_in_the_part_of_its_frame_and_is_its_own_past(built, part):
    video, stalled, counts = built
    own, both = video.open(part), stalled.open(part).clips(2)
    assert counts[part] == len(both) == 2 * len(own)
    past = before(both)
    for row in range(len(both)):
        name = both[row].id
        frames = both[row].pixels
        if name.startswith("stalled"):
            assert np.array_equal(frames[0], frames[2])
            assert past[name] == ["1", "1"]
        elif not name.endswith("_000000"):  # the first frame of all has no past either
            assert not np.array_equal(frames[1], frames[2])


def test_only_the_past_tells_a_twin_from_its_frame(built):
    _, stalled, _ = built
    rows = {sample.id: sample for sample in (stalled.open("train")[row] for row in range(len(stalled.open("train"))))}
    pairs = [(rows[f"whole_{n}"], rows[f"stalled-{n}_1"]) for n in (name[-6:] for name in rows if "whole" in name)]
    assert pairs
    for moving, still in pairs:
        assert np.array_equal(moving.image, still.image)
        assert set(np.unique(moving.labels)) == {0, 1}
        assert not still.labels.any()
