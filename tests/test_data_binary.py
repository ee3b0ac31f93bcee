"""Masks of two classes, however they are written, are recognised and said."""

import json
import logging

import numpy as np
import pytest
from layouts import stems, write_pairs
from PIL import Image

from hfseg.data import FolderConfig
from hfseg.errors import DataError


@pytest.mark.parametrize(
    ("classes", "names"),
    [(None, ("background", "object")), (("crack",), ("background", "crack")), (("no", "yes"), ("no", "yes"))],
)
def test_masks_of_0_and_255_are_binary(tmp_path, classes, names, caplog):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0,))
    write_pairs(tmp_path / "images", tmp_path / "masks", ["y"], values=(0, 255))
    with caplog.at_level(logging.INFO):
        dataset = FolderConfig(data_dir=tmp_path, classes=classes, validation_fraction=0.2).open("train")
    assert dataset.labels.names == names
    assert dataset.labels.table == {0: 0, 255: 1}
    assert names[1] in caplog.text
    assert 255 not in np.concatenate([dataset[i].labels for i in range(len(dataset))])


def test_255_is_ignored_where_another_value_is_the_object(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 255))
    write_pairs(tmp_path / "images", tmp_path / "masks", ["y"], values=(0, 1, 255))
    assert FolderConfig(data_dir=tmp_path, classes=("crack",)).labels().table == {255: 255, 0: 0, 1: 1}


@pytest.mark.parametrize(
    ("classes", "names"),
    [(None, ("background", "object")), (("crack",), ("background", "crack")), (("no", "yes"), ("no", "yes"))],
)
@pytest.mark.parametrize("values", [(0, 1), (0, 1, 255)])
def test_masks_of_0_and_1_are_binary(tmp_path, classes, names, values, caplog):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=values)
    with caplog.at_level(logging.INFO):
        labels = FolderConfig(data_dir=tmp_path, classes=classes).labels()
    assert labels.names == names
    assert labels.table == {0: 0, 1: 1, 255: 255}
    assert f"2 found in the masks: {', '.join(names)}" in caplog.text or f"1 is `{names[1]}`" in caplog.text


@pytest.mark.parametrize("classes", [None, ("crack",)])
def test_masks_that_are_binary_in_two_ways_are_an_error(tmp_path, classes):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["x"], values=(0, 1))
    write_pairs(tmp_path / "images", tmp_path / "masks", ["y"], values=(0, 255))
    config = FolderConfig(data_dir=tmp_path, classes=classes)
    with pytest.raises(DataError, match=r"x.png` holds 0 and 1, `.*y.png` holds 0 and 255") as caught:
        config.labels()
    assert "data.ignored_values=[255]" in caught.value.hint
    told = config.model_copy(update={"ignored_values": (255,)}).labels()
    assert told.table == {0: 0, 1: 1, 255: 255}


def paint(tmp_path, *colors):
    pixels = [channel for color in colors for channel in color]
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x", 2), values=(0, 0, 0), painted=True)
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("y", 2), values=pixels, painted=True)


@pytest.mark.parametrize(
    ("classes", "names"),
    [(None, ("background", "object")), (("crack",), ("background", "crack")), (("no", "yes"), ("no", "yes"))],
)
def test_masks_painted_in_black_and_one_colour_are_binary(tmp_path, classes, names, caplog):
    paint(tmp_path, (0, 0, 0), (200, 0, 30))
    with caplog.at_level(logging.INFO):
        dataset = FolderConfig(data_dir=tmp_path, classes=classes, validation_fraction=0.25).open("train")
    assert dataset.labels.names == names
    assert dataset.labels.palette == ((0, 0, 0), (200, 0, 30))
    assert f"the masks are binary: black is `{names[0]}`, [200, 0, 30] is `{names[1]}`" in caplog.text
    assert {0, 1} == set(np.unique(np.concatenate([dataset[index].labels for index in range(len(dataset))])))


def test_masks_of_black_and_white_pixels_are_binary_values(tmp_path, caplog):
    paint(tmp_path, (0, 0, 0), (255, 255, 255))
    with caplog.at_level(logging.INFO):
        labels = FolderConfig(data_dir=tmp_path, classes=("crack",)).labels()
    assert (labels.colors, labels.table) == (None, {0: 0, 255: 1})
    assert "the masks are binary: 0 is `background`, 255 is `crack`" in caplog.text


def test_one_class_with_a_colour_is_found_in_painted_masks(tmp_path):
    paint(tmp_path, (0, 0, 0), (200, 0, 30))
    (tmp_path / "info.json").write_text(json.dumps({"names": ["crack"], "palette": [[1, 2, 3]]}))
    assert FolderConfig(data_dir=tmp_path).labels().palette == ((0, 0, 0), (200, 0, 30))


@pytest.mark.parametrize(("classes", "named"), [(None, "object"), (("road", "car"), "car")])
def test_two_colours_without_black_may_be_either_class(tmp_path, classes, named):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(9, 0, 0, 0, 9, 0), painted=True)
    with pytest.raises(DataError, match=rf"\[0, 9, 0\] and \[9, 0, 0\]: which of them is `{named}`") as caught:
        FolderConfig(data_dir=tmp_path, classes=classes).labels()
    assert f"{named}: [9, 0, 0]}}'" in caught.value.hint


def test_a_mask_that_cannot_be_read_is_left_to_those_who_check_all_files(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(3):
        Image.fromarray(np.full((4, 6, 3), 50 * number, dtype=np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.tile([0, 255], (4, 3)).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    config = FolderConfig(data_dir=tmp_path)
    (tmp_path / "masks" / "0.png").write_bytes(b"broken")
    assert config.labels().names == ("background", "object")
    for number in (1, 2):
        (tmp_path / "masks" / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0.png` is not an image"):
        config.labels()
