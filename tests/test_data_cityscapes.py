"""Cityscapes in folders and zips, with its published parts and with parts drawn anew."""

import zipfile
from itertools import chain

import pytest
from layouts import CITY_FRAMES, PARTS, ids, made_cityscapes, zip_up
from pydantic import ValidationError

from hfseg.data import Dataset, verify
from hfseg.data.cityscapes import CityscapesConfig
from hfseg.errors import DataError


@pytest.mark.parametrize("zips", [(), ("leftImg8bit", "gtFine"), ("gtFine",)])
def test_cityscapes_is_read_from_folders_and_zips_alike(tmp_path, zips, caplog):
    config = CityscapesConfig(data_dir=made_cityscapes(tmp_path, zips=zips))
    train = config.open("train")
    assert isinstance(train, Dataset)
    assert ids(train) == CITY_FRAMES["train"]
    assert train[0].labels[0].tolist() == [0, 13, 255, 255]
    assert verify(train, workers=0).pixels[:2] == (36, 0)
    assert ids(config.open("validation")) == CITY_FRAMES["val"]
    assert "the `train` part of cityscapes holds 6 samples: the published one has 2975" in caplog.text


def test_the_test_part_of_cityscapes_is_not_scored(tmp_path):
    with pytest.raises(DataError, match="`test` part of cityscapes has no labels") as caught:
        CityscapesConfig(data_dir=made_cityscapes(tmp_path)).open("test")
    assert "data.split=random" in caught.value.hint


def test_cityscapes_masks_of_train_ids_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"only \*_gtFine_labelTrainIds.png: expected the official labelIds") as caught:
        CityscapesConfig(data_dir=made_cityscapes(tmp_path, ending="labelTrainIds")).open("train")
    assert "gtFine_trainvaltest.zip" in caught.value.hint


def test_cityscapes_that_is_not_whole_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no Cityscapes in .*: looked for leftImg8bit/train and for leftImg8bit_train"):
        CityscapesConfig(data_dir=tmp_path).open("train")
    root = made_cityscapes(tmp_path)
    (root / "gtFine/train/aachen/aachen_000002_000019_gtFine_labelIds.png").unlink()
    message = "train of cityscapes has 6 images and 5 masks: 1 have no partner.*`aachen_000002_000019`"
    with pytest.raises(DataError, match=message):
        CityscapesConfig(data_dir=root).open("train")


def random_parts(root, **settings):
    config = CityscapesConfig(data_dir=root, split="random", **settings)
    return [ids(config.open(part)) for part in PARTS]


def test_the_random_split_of_cityscapes_divides_all_labelled_images_once(tmp_path, caplog):
    root = made_cityscapes(tmp_path)
    pool = sorted(CITY_FRAMES["train"] + CITY_FRAMES["val"])
    parts = random_parts(root, split_sizes=(0.5, 0.25, 0.25))
    assert [len(part) for part in parts] == [4, 2, 2]
    assert sorted(chain(*parts)) == pool
    assert parts == random_parts(root, split_sizes=(4, 2, 2)) != random_parts(root, split_sizes=(4, 2, 2), split_seed=1)
    assert "in proportion" not in caplog.text
    assert [len(part) for part in random_parts(root)] == [5, 2, 1]
    assert "there are 8 labelled images: 2380, 595, 500 is taken in proportion, [5, 2, 1]" in caplog.text
    zip_up(root / "gtFine", root / "gtFine_trainvaltest.zip")
    assert random_parts(root, split_sizes=(4, 2, 2)) == parts
    with pytest.raises(DataError, match="gives `test` none of 8 images"):
        random_parts(root, split_sizes=(0.5, 0.5, 0))


@pytest.mark.slow
def test_the_random_split_of_the_whole_of_cityscapes_has_the_sizes_of_the_course(tmp_path, caplog):
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        with zipfile.ZipFile(tmp_path / f"{kind}_trainvaltest.zip", "w") as archive:
            for part, count in (("train", 2975), ("val", 500)):
                for number in range(count):
                    archive.writestr(f"{kind}/{part}/ulm/{part}_{number:06d}_000019_{ending}.png", b"")
    config = CityscapesConfig(data_dir=tmp_path, split="random")
    parts = [config.open(part).table["id"] for part in PARTS]
    assert [len(part) for part in parts] == [2380, 595, 500]
    assert len({name for part in parts for name in part}) == 3475
    assert any(name.startswith("val") for name in parts[0])
    assert len(CityscapesConfig(data_dir=tmp_path).open("train")) == 2975
    assert not caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "random", "split_sizes": (0.5, 0.2, 0.2)}, "sum to 0.9: expected 1"),
        ({"split": "random", "split_sizes": (10, 0.5, 0.5)}, "mixes numbers and fractions"),
        ({"split": "random", "split_sizes": (-1, 1, 1)}, "greater than or equal to 0"),
        ({"split_seed": 3}, "do nothing beside the official split"),
        ({"split_sizes": (1, 0, 0)}, "do nothing beside the official split"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        CityscapesConfig(data_dir="x", **settings)
