"""Consistency against a naive loop over pixels; cuts and sizes."""

from itertools import pairwise

import numpy as np
import pytest

from hfseg.metrics import Consistency

NAMES, PALETTE = ("sky", "road", "car", "never"), ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))


def clip(count=6, seed=0):
    """Maps of 7 x 9 pixels in which some pixels change their class; the last class never occurs."""
    draw = np.random.default_rng(seed)
    maps = [draw.integers(0, 3, (7, 9))]
    for _ in range(count - 1):
        changed = draw.random((7, 9)) < 0.3
        maps.append(np.where(changed, draw.integers(0, 3, (7, 9)), maps[-1]))
    return maps


def naive(pairs):
    """Count in plain loops: kept pixels, all pixels, and the IoU of each class, None where it does not occur."""
    kept = total = 0
    both, either = [0] * 4, [0] * 4
    for before, after in pairs:
        for one, other in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
            total += 1
            kept += one == other
            for k in range(4):
                both[k] += one == k and other == k
                either[k] += one == k or other == k
    return kept / total, [b / e if e else None for b, e in zip(both, either, strict=True)]


def measured(maps, cuts=()):
    consistency = Consistency(4)
    for index, pred in enumerate(maps):
        consistency.update(pred, index=index, cut=index in cuts)
    return consistency.to_dict(NAMES, PALETTE)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_every_pixel_of_every_pair_counts_as_in_a_plain_loop(dtype):
    maps = [pred.astype(dtype) for pred in clip()]
    kept, ious = naive(list(pairwise(maps)))
    found = measured(maps)
    assert found["pixels_kept"] == pytest.approx(kept, abs=1e-12)
    assert [row["iou"] for row in found["classes"]] == pytest.approx(ious, abs=1e-12)
    assert found["mean_iou"] == pytest.approx(np.mean(ious[:3]), abs=1e-12)
    assert (found["frames"], found["pairs"], found["cuts"]) == (6, 5, [])


def test_a_cut_is_stated_and_compared_with_nothing():
    maps = clip()
    kept, ious = naive([pair for number, pair in enumerate(pairwise(maps)) if number != 2])
    found = measured(maps, cuts=(3,))
    assert found["pixels_kept"] == pytest.approx(kept, abs=1e-12)
    assert [row["iou"] for row in found["classes"]] == pytest.approx(ious, abs=1e-12)
    assert (found["pairs"], found["cuts"]) == (4, [3])


def test_a_frame_of_another_size_is_a_cut():
    maps = clip(2) + [pred.T for pred in clip(2)]
    assert measured(maps)["cuts"] == [2]
    assert measured(maps)["pairs"] == 2


def test_the_pair_that_changed_most_is_named_by_its_second_frame():
    maps = [np.zeros((4, 4), np.int64)] * 5
    maps[3] = np.eye(4, dtype=np.int64)
    found = measured(maps)
    assert found["worst"] == {"frame": 3, "pixels_kept": 0.75}


def test_what_does_not_change_is_wholly_consistent():
    found = measured([np.ones((4, 4), np.int64)] * 3)
    assert (found["pixels_kept"], found["mean_iou"], found["classes"][0]["iou"]) == (1, 1, None)


def test_one_frame_has_nothing_to_be_compared_with():
    found = measured(clip(1))
    assert (found["frames"], found["pixels_kept"], found["mean_iou"], found["worst"]) == (1, None, None, None)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_class_that_does_not_exist_is_a_wrong_call(wrong):
    with pytest.raises(ValueError, match=f"has the class {wrong}: expected 0 to 3"):
        measured([np.zeros((2, 2), np.int64), np.full((2, 2), wrong)])
