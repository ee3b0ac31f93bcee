import numpy as np
import pytest
from PIL import Image

from hfseg.labels import LabelSpace
from hfseg.viz import overlay, save_index_mask, side_by_side
from hfseg.viz.legend import MAX_ENTRIES, class_entries
from hfseg.viz.paint import HATCH, WRONG, class_map, error_map, outlines, shares

SPACE = LabelSpace.from_names(["background", "coin", "table"], palette=[(0, 0, 0), (200, 30, 30), (30, 30, 200)])


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def halves(height=48, width=64, ids=(0, 1)):
    mask = np.full((height, width), ids[0], dtype=np.uint8)
    mask[:, width // 2 :] = ids[1]
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_an_index_mask_reopens_to_the_same_ids(tmp_path, dtype):
    ids = np.random.default_rng(0).choice([0, 1, 2, 255], (37, 53)).astype(dtype)
    save_index_mask(ids, SPACE, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert (mask.mode, mask.size, mask.format) == ("P", (53, 37), "PNG")
        np.testing.assert_array_equal(np.asarray(mask), ids)
        rgb = np.asarray(mask.convert("RGB"))
    np.testing.assert_array_equal(rgb, SPACE.colorize(ids))


def test_a_mask_of_many_classes_has_sixteen_bits(tmp_path):
    space = LabelSpace.from_names([f"class {i}" for i in range(300)], ignore_index=65535)
    ids = np.random.default_rng(0).choice([0, 7, 256, 299, 65535], (20, 30))
    save_index_mask(ids, space, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(mask), ids)


def test_an_ignore_index_that_does_not_fit_is_written_as_the_largest_value(tmp_path):
    space = LabelSpace.from_names(["a", "b"], ignore_index=-1)
    save_index_mask(np.array([[0, 1, -1]]), space, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert np.asarray(mask).tolist() == [[0, 1, 255]]


def test_an_id_that_is_no_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mask has the ids \[9\]: expected 0 to 2"):
        save_index_mask(np.array([[0, 9, 255]]), SPACE, tmp_path / "mask.png")
    assert not (tmp_path / "mask.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (31, 700)])
def test_an_overlay_keeps_the_size_and_its_legend_stands_below(size):
    image, ids = picture(*size), halves(*size)
    bare, full = overlay(image, ids, SPACE, legend=False), overlay(image, ids, SPACE)
    assert bare.size == (size[1], size[0])
    assert full.width >= bare.width
    assert full.height > bare.height
    np.testing.assert_array_equal(np.asarray(full)[: size[0], : size[1]], np.asarray(bare))


def test_alpha_goes_from_the_picture_to_the_colours():
    image, ids = picture(), halves()
    np.testing.assert_array_equal(np.asarray(overlay(image, ids, SPACE, alpha=0.0, legend=False)), image)
    painted = np.asarray(overlay(image, ids, SPACE, alpha=1.0, legend=False))
    np.testing.assert_array_equal(painted, SPACE.colorize(ids))


def test_drawing_leaves_its_inputs_alone():
    image, ids, labels = picture(), halves(), halves(ids=(2, 255))
    before = image.copy(), ids.copy(), labels.copy()
    overlay(image, ids, SPACE)
    side_by_side(image, ids, labels, SPACE)
    for array, copy in zip((image, ids, labels), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_ignored_pixels_are_hatched_in_two_greys():
    colors = class_map(halves(ids=(1, 255)), SPACE)
    assert (colors[:, :32] == SPACE.palette[1]).all()
    assert {tuple(color) for color in colors[:, 32:].reshape(-1, 3).tolist()} == set(HATCH)


def test_wrong_pixels_are_brighter_than_every_correct_one_and_ignored_ones_are_neither():
    pred, labels = halves(ids=(0, 1)), halves(ids=(0, 2))
    labels[:8] = 255
    colors = error_map(picture(), pred, labels, SPACE)
    weights = np.array([0.299, 0.587, 0.114])
    assert (colors[8:, 32:] == WRONG).all()
    assert (colors[8:, :32] @ weights).max() < np.array(WRONG) @ weights - 40
    assert {tuple(color) for color in colors[:8].reshape(-1, 3).tolist()} == set(HATCH)


def test_outlines_stand_where_the_class_changes():
    edge = outlines(halves(), thickness=2)
    assert edge[:, 30:32].all()
    assert edge.sum() == 2 * 48


def test_shares_count_all_pixels_and_sum_to_one():
    of_class, of_ignore = shares(np.array([[0, 0, 1, 255]]), SPACE)
    assert of_class.tolist() == [0.5, 0.25, 0.0]
    assert of_ignore == 0.25


def test_a_legend_names_the_largest_classes_first_and_sums_up_the_rest():
    names = [f"class {i}" for i in range(40)]
    column = [(i + 1) / 1000 for i in range(40)]
    entries = class_entries(names, [(0, 0, 0)] * 40, [column], [0.18])
    assert len(entries) == MAX_ENTRIES + 2
    assert entries[0].text == "class 39  4.0 %"
    assert entries[-2].text == "16 more classes  13.6 %"
    assert entries[-1].text == "ignore  18.0 %"
    assert entries[-1].color is None


def test_a_legend_says_prediction_and_labels_and_keeps_tiny_shares_apart_from_none():
    entries = class_entries(["a", "b"], [(0, 0, 0)] * 2, [[0.9999, 0.0001], [1.0, 0.0]], [0.0, 0.0])
    assert [entry.text for entry in entries] == ["a  100.0 / 100.0 %", "b  <0.1 / 0.0 %"]


@pytest.mark.parametrize("size", [(16, 16), (64, 96), (1500, 1000), (40, 1900), (1, 1)])
@pytest.mark.parametrize("labelled", [True, False])
def test_panels_stand_side_by_side_at_any_size(size, labelled):
    image, pred = picture(*size), halves(*size)
    labels = halves(*size, ids=(0, 255)) if labelled else None
    panels = side_by_side(image, pred, labels, SPACE)
    assert panels.mode == "RGB"
    assert max(panels.size) <= 2800
    assert panels.width >= (4 if labelled else 2) * size[1] * min(1, 640 / max(size))


def test_panels_without_any_label_can_be_drawn():
    nothing = np.full((32, 32), 255, dtype=np.uint8)
    assert side_by_side(picture(32, 32), halves(32, 32), nothing, SPACE).width > 4 * 32
