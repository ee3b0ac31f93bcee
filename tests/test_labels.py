"""The label table is applied once, to all values at the same time, and knows what it does not know."""

import numpy as np
import pytest

from hfseg.errors import DataError
from hfseg.labels import LabelSpace, default_palette

ADE = LabelSpace.from_names([f"c{i}" for i in range(150)], first=1, ignored=[0])


def test_raw_values_move_all_at_once_and_the_mask_stays():
    mask = np.arange(151, dtype=np.uint8).reshape(1, 151)
    before = mask.copy()
    assert ADE.encode(mask).tolist() == [[255, *range(150)]]
    assert np.array_equal(mask, before)


def test_a_swap_is_simultaneous():
    space = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 1, 1: 0})
    assert space.encode(np.array([[0, 1]], dtype=np.uint8)).tolist() == [[1, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_unknown_values_are_named_with_their_counts(dtype):
    mask = np.array([[0, 7, 7, 200]], dtype=dtype)
    with pytest.raises(DataError, match=r"value 7 in 2 pixels, 200 in 1 pixels: expected 0 to 2, 255"):
        LabelSpace.from_names("abc").encode(mask)


def test_values_in_a_gap_are_unknown_too():
    space = LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 5: 1})
    with pytest.raises(DataError, match="value 3 in 1 pixels"):
        space.encode(np.array([[0, 3]], dtype=np.uint8))


def test_colour_masks_are_read_by_their_table():
    space = LabelSpace(
        ("road", "car"), ((1, 2, 3), (9, 9, 9)), {0: 0, 1: 1, 2: 255}, {(1, 2, 3): 0, (9, 9, 9): 1, (0, 0, 0): 2}
    )
    mask = np.array([[[9, 9, 9], [1, 2, 3], [0, 0, 0]]], dtype=np.uint8)
    assert space.encode(mask).tolist() == [[1, 0, 255]]
    with pytest.raises(DataError, match=r"colour \(1, 2, 4\) in 1 pixels"):
        space.encode(np.array([[[1, 2, 4]]], dtype=np.uint8))
    with pytest.raises(DataError, match="RGB image: expected one value a pixel"):
        ADE.encode(mask)


@pytest.mark.parametrize("ids_dtype", [np.uint8, np.int64])
def test_ids_turn_back_into_the_raw_values_they_came_from(ids_dtype):
    space = LabelSpace(("road", "car"), ((0, 0, 0), (1, 1, 1)), {7: 0, 26: 1, 0: 255, 1: 255})
    raw = np.array([[26, 7, 7]], dtype=np.uint8)
    assert np.array_equal(space.decode(space.encode(raw).astype(ids_dtype)), raw)
    assert space.decode(np.array([[0, 255]], dtype=ids_dtype), ignored=3).tolist() == [[7, 3]]
    assert np.array_equal(ADE.decode(ADE.encode(np.arange(151, dtype=np.uint8)[None])), np.arange(151)[None])


def test_raw_values_beyond_a_byte_come_back_whole():
    space = LabelSpace.from_names("ab", first=1000)
    assert space.decode(np.array([[1, 255]], dtype=np.uint8)).tolist() == [[1001, 0]]


def test_ids_of_several_raw_values_do_not_turn_back():
    ids = np.array([[0]], dtype=np.uint8)
    with pytest.raises(DataError, match="class `b` cannot be turned back into one raw value: it stands for 1, 4"):
        LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0, 1: 1, 4: 1}).decode(ids)
    with pytest.raises(DataError, match="it stands for none"):
        LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1)), {0: 0}).decode(ids)
    with pytest.raises(ValueError, match="id 150 is no class: expected 0 to 149"):
        ADE.decode(np.array([[150]], dtype=np.uint8))


def test_the_ignored_value_is_no_class():
    with pytest.raises(DataError, match="ignore_index 1 is also a class"):
        LabelSpace.from_names(["a", "b"], ignore_index=1)
    wide = LabelSpace.from_names([str(i) for i in range(300)], ignore_index=65535)
    assert wide.encode(np.array([[299, 65535]], dtype=np.uint16)).tolist() == [[299, 65535]]


def test_palettes_are_distinct_and_unknown_ids_are_grey():
    assert len(set(default_palette([str(i) for i in range(255)]))) == 255
    assert default_palette(["Background", "a"]) == ((0, 0, 0), default_palette(["a"])[0])
    painted = LabelSpace.from_names("ab").colorize(np.array([[0, 1, 255]], dtype=np.uint8))
    assert painted[0, 2].tolist() == [128, 128, 128]
