"""Frames of a video of predictions: where panels are, what they show, and a legend that does not jump."""

import numpy as np
import pytest

from hfseg.labels import LabelSpace
from hfseg.viz import ClipPainter, overlay

LABELS = LabelSpace.from_names([f"class {index}" for index in range(6)])


def frame(height=60, width=80, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8), np.kron(
        draw.integers(0, 3, (height // 20, width // 20)), np.ones((20, 20), np.int32)
    )


@pytest.mark.parametrize("view", ["side", "overlay", "mask", "original"])
@pytest.mark.parametrize("legend", [True, False])
def test_sides_are_even_and_all_frames_have_one_size(view, legend):
    for height, width in ((60, 80), (60, 100), (40, 60)):
        painter = ClipPainter(LABELS, (height, width), view=view, legend=legend)
        found = painter.paint(*frame(height, width))
        assert found.shape == (*painter.size, 3)
        assert not any(side % 2 for side in painter.size)
        assert not painter.padded


def test_side_by_side_shows_the_frame_and_its_overlay():
    image, pred = frame()
    painter = ClipPainter(LABELS, (60, 80), view="side", legend=False)
    found = painter.paint(image, pred)
    np.testing.assert_array_equal(found[:60, :80], image)
    over = np.asarray(overlay(image, pred, LABELS, legend=False)).astype(int)
    assert np.abs(found[:60, -80:] - over).max() <= 2, "the same overlay as that of images, to rounding"


def test_a_mask_has_the_colours_of_the_classes_and_nothing_else():
    image, pred = frame()
    found = ClipPainter(LABELS, (60, 80), view="mask", legend=False).paint(image, pred)
    np.testing.assert_array_equal(found, LABELS.colorize(pred))


def test_odd_sides_repeat_the_last_row_and_column():
    image, pred = np.random.default_rng(0).integers(0, 256, (41, 63, 3), dtype=np.uint8), np.zeros((41, 63), np.int32)
    painter = ClipPainter(LABELS, (41, 63), view="original")
    found = painter.paint(image, pred)
    assert painter.padded
    np.testing.assert_array_equal(found, np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge"))


def test_a_frame_of_another_size_is_brought_to_that_of_the_first():
    painter = ClipPainter(LABELS, (60, 80), view="mask", legend=False)
    image, pred = frame(120, 160)
    found = painter.paint(image, pred)
    np.testing.assert_array_equal(found, LABELS.colorize(pred[::2, ::2]))


def strip(painter, classes):
    pred = np.zeros((60, 400), np.int32)
    for place, index in enumerate(classes):
        pred[:, 40 * place : 40 * place + 40] = index
    pred[:, 40 * len(classes) :] = classes[0]
    return painter.paint(np.zeros((60, 400, 3), np.uint8), pred)[60:]


def test_a_class_keeps_its_place_in_the_legend_and_fades_while_it_is_not_seen():
    painter = ClipPainter(LABELS, (60, 400), view="overlay")
    first = strip(painter, [4, 2])
    later = strip(painter, [2, 5])
    again = strip(painter, [4, 2])
    where = [np.argwhere((first == LABELS.palette[index]).all(-1)) for index in (4, 2)]
    assert (again[tuple(where[0].T)] == LABELS.palette[4]).all()
    assert (later[tuple(where[1].T)] == LABELS.palette[2]).all()
    inside = where[0][len(where[0]) // 2 + 6]
    assert (later[tuple(inside)] == 255).all(), "the swatch of a class that is not seen is empty"
    assert (later == LABELS.palette[5]).all(-1).any()


def test_classes_without_a_place_are_counted():
    many = LabelSpace.from_names([f"a rather long name of class {index}" for index in range(40)])
    painter = ClipPainter(many, (60, 400), view="overlay")
    pred = np.kron(np.arange(40, dtype=np.int32).reshape(4, 10), np.ones((15, 40), np.int32))
    found = painter.paint(np.zeros((60, 400, 3), np.uint8), pred)
    assert found.shape == (*painter.size, 3)
    assert painter.size[0] < 60 + 3 * 40
