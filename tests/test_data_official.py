"""Published data sets: their tables, Pascal VOC and COCO-Stuff in their layouts, and what all have in common."""

import logging
import shutil

import numpy as np
import pytest
import yaml
from layouts import (
    ids,
    made_camvid,
    made_cityscapes,
    made_coco,
    made_voc,
    painted_camvid,
    write,
    zip_up,
)

from hfseg.data import Ade20kConfig, Dataset, verify
from hfseg.data.ade20k import Ade20kFourConfig
from hfseg.data.camvid import CamvidConfig
from hfseg.data.cityscapes import CityscapesConfig
from hfseg.data.coco_stuff import CocoStuffConfig
from hfseg.data.official import ASSETS_DIR, official
from hfseg.data.voc import VocConfig
from hfseg.errors import DataError
from hfseg.labels import default_palette


@pytest.mark.parametrize(
    ("name", "count", "samples", "spots"),
    [
        (
            "ade20k",
            150,
            (20210, 2000),
            {0: (1, "wall", (120, 120, 120)), 20: (21, "car", (0, 102, 200)), 149: (150, "flag", (92, 0, 255))},
        ),
        (
            "cityscapes",
            19,
            (2975, 500),
            {0: (7, "road", (128, 64, 128)), 5: (17, "pole", (153, 153, 153)), 18: (33, "bicycle", (119, 11, 32))},
        ),
        (
            "voc",
            21,
            (1464, 1449),
            {0: (0, "background", (0, 0, 0)), 15: (15, "person", (192, 128, 128)), 20: (20, "tvmonitor", (0, 64, 128))},
        ),
        (
            "coco-stuff",
            171,
            (118287, 5000),
            {0: (0, "person", (128, 0, 0)), 80: (91, "banner", (160, 64, 0)), 170: (181, "wood", (192, 160, 64))},
        ),
        (
            "camvid",
            32,
            (367, 101),
            {
                0: (0, "Animal", (64, 128, 64)),
                22: (22, "SUVPickupTruck", (64, 128, 192)),
                31: (31, "Wall", (64, 192, 0)),
            },
        ),
    ],
)
def test_tables_are_the_published_ones(name, count, samples, spots):
    facts = official(name)
    labels = facts.labels
    doubled = 1 if name == "ade20k" else 0  # `screen` stands for two classes, road and skyscraper share a colour
    assert labels.num_labels == count
    assert (len(set(labels.names)), len(set(labels.palette))) == (count - doubled, count - doubled)
    assert (facts.num_samples["train"], facts.num_samples["validation"]) == samples
    raw_of = {label: raw for raw, label in labels.table.items()}
    assert {label: (raw_of[label], labels.names[label], labels.palette[label]) for label in spots} == spots


@pytest.mark.parametrize("path", sorted(ASSETS_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_tables_are_words_and_numbers_and_say_where_they_come_from(path):
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    rows = [*tree.get("classes", []), *tree.get("ignored", [])]
    assert all(isinstance(raw, int) and isinstance(name, str) for raw, name, *_ in rows)
    assert text.startswith("# ")
    assert "merge" in tree or "Source" in text or "BSD-3-Clause" in text


def test_cityscapes_knows_all_35_published_ids():
    labels = CityscapesConfig(data_dir="x").labels()
    assert set(labels.table) == {*range(-1, 34), 255}
    kept = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert labels.decode(np.arange(19, dtype=np.uint8)[None]).tolist() == [kept]
    raw = np.arange(34, dtype=np.uint8)[None]
    assert np.array_equal(labels.decode(labels.encode(raw)), np.where(np.isin(raw, kept), raw, 0))
    assert labels.names[9:12] == ("terrain", "sky", "person")


def test_ade20k_and_voc_turn_back_into_their_published_values():
    assert Ade20kConfig().labels().decode(np.array([[0, 149, 255]], np.uint8)).tolist() == [[1, 150, 0]]
    voc = VocConfig(data_dir="x").labels()
    assert voc.decode(np.array([[0, 20, 255]], np.uint8), ignored=255).tolist() == [[0, 20, 255]]
    assert voc.palette == default_palette(voc.names)
    with pytest.raises(DataError, match="class `background` cannot be turned back"):
        Ade20kFourConfig().labels().decode(np.array([[0]], np.uint8))


def test_coco_stuff_skips_the_things_that_nobody_drew():
    labels = CocoStuffConfig(data_dir="x").labels()
    missing = set(range(182)) - set(labels.table)
    assert missing == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert labels.names[:2] == ("person", "bicycle")
    assert labels.names[79:81] == ("toothbrush", "banner")
    assert not {"desk", "door", "mirror", "window", "hat"} & set(labels.names)


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_voc_is_read_by_its_lists(tmp_path, place):
    config = VocConfig(data_dir=made_voc(tmp_path) / place)
    train = config.open("train")
    assert ids(train) == ["2007_000032", "2007_000039"]
    assert train[0].labels[0].tolist() == [0, 15, 20, 255]
    assert ids(config.open("validation")) == ["2007_000033"]
    with pytest.raises(DataError, match="voc has no `test` part"):
        config.open("test")


def test_voc_trains_on_more_masks_where_they_are(tmp_path, caplog):
    config = VocConfig(data_dir=made_voc(tmp_path, augmented=True), train_aug=True)
    assert ids(config.open("train")) == ["2007_000032", "2007_000039", "2008_000008"]
    assert "holds 3 samples: the published one has 10582" in caplog.text
    assert ids(config.open("validation")) == ["2007_000033"]
    without = VocConfig(data_dir=made_voc(tmp_path / "other"), train_aug=True)
    with pytest.raises(DataError, match="no `SegmentationClassAug` in") as caught:
        without.open("train")
    assert "data.train_aug=false" in caught.value.hint
    with pytest.raises(DataError, match="no Pascal VOC in .*: looked for JPEGImages in it, VOC2012"):
        VocConfig(data_dir=tmp_path / "nothing").open("train")


@pytest.mark.parametrize("form", ["annotations", "stuffthingmaps", "zips"])
def test_coco_stuff_is_read_from_folders_and_zips_alike(tmp_path, form):
    root = made_coco(tmp_path, "images" if form == "annotations" else "", "maps" if form == "zips" else form)
    if form == "zips":
        shutil.make_archive(str(root / "stuffthingmaps_trainval2017"), "zip", root / "maps")
        shutil.rmtree(root / "maps")
        for part in ("train2017", "val2017"):
            zip_up(root / part, root / f"{part}.zip")
    config = CocoStuffConfig(data_dir=root)
    train = config.open("train")
    assert (len(train), len(config.open("validation"))) == (3, 2)
    assert train[1].id == "000000000001"
    assert train[1].labels[0].tolist() == [0, 80, 170, 255]


def test_coco_stuff_that_is_not_there_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"looked for images/train2017 or train2017, and for train2017.zip"):
        CocoStuffConfig(data_dir=tmp_path).open("train")
    write(tmp_path / "images" / "train2017" / f"{1:012d}.jpg", None)
    with pytest.raises(DataError, match=r"stuffthingmaps/train2017 or annotations/train2017, and for stuffthingmaps_"):
        CocoStuffConfig(data_dir=tmp_path).open("train")
    with pytest.raises(DataError, match="coco-stuff has no `test` part"):
        CocoStuffConfig(data_dir=tmp_path).open("test")


def made(tmp_path, kind):
    match kind:
        case "cityscapes":
            return CityscapesConfig(data_dir=made_cityscapes(tmp_path))
        case "camvid":
            return CamvidConfig(data_dir=made_camvid(tmp_path, "{}", "{}annot"))
        case "camvid painted":
            return CamvidConfig(data_dir=painted_camvid(tmp_path), classes=32)
        case "voc":
            return VocConfig(data_dir=made_voc(tmp_path))
        case _:
            return CocoStuffConfig(data_dir=made_coco(tmp_path))


@pytest.mark.parametrize("kind", ["cityscapes", "camvid", "camvid painted", "voc", "coco-stuff"])
def test_every_published_data_set_keeps_the_contract_and_takes_a_merge(tmp_path, kind, caplog):
    caplog.set_level(logging.ERROR)
    config = made(tmp_path, kind)
    for split in ("train", "validation"):
        dataset = config.open(split)
        assert isinstance(dataset, Dataset)
        assert dataset.labels == config.labels()
        assert len(set(ids(dataset))) == len(dataset) > 0
        assert dataset[0].image.shape == (*dataset[0].labels.shape, 3)
        found = verify(dataset, workers=0)
        assert sum(found.pixels) + found.ignored_pixels == len(dataset) * 24
        assert not dataset.rare_class_crop
    first = config.labels().names[0]
    kept = config.model_copy(update={"merge": {"only": [first], "ignore": ["*"]}, "rare_class_crop": True})
    dataset = kept.open("train")
    assert dataset.labels.names == ("only",)
    assert set(np.unique(dataset[0].labels)) <= {0, 255}
    assert dataset.rare_class_crop
