import json
import logging

import numpy as np
import pytest
from layouts import stems, write_pairs
from PIL import Image
from pydantic import ValidationError

from hfseg.cli.flags import source_flags
from hfseg.cli.options import SourceOptions
from hfseg.data import FolderConfig, verify
from hfseg.data.classes import read_classes
from hfseg.errors import DataError

COLORS = {"road": (128, 64, 128), "car": (0, 0, 142), "ignore": (0, 0, 0)}


LAYOUTS = {
    "train_images": ("{split}_images", "{split}_masks", ("train", "valid", "test")),
    "val_images": ("{split}_images", "{split}_labels", ("train", "val", "test")),
    "images-training": ("Images-{split}", "Annotations-{split}", ("training", "validation", "test")),
    "images/train": ("images/{split}", "masks/{split}", ("train", "val", "test")),
    "img/train": ("imgs/{split}", "labels/{split}", ("train", "valid", "testing")),
    "images/training": ("images/{split}", "annotations/{split}", ("training", "validation", "testing")),
    "train/images": ("{split}/images", "{split}/masks", ("train", "dev", "test")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found_by_the_names_of_the_folders(tmp_path, layout):
    images, masks, splits = LAYOUTS[layout]
    for split, count in zip(splits, (4, 3, 2), strict=True):
        write_pairs(tmp_path / images.format(split=split), tmp_path / masks.format(split=split), stems(split, count))
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"))
    assert [len(config.open(split)) for split in ("train", "validation", "test")] == [4, 3, 2]
    assert config.open("validation")[2].id == f"{splits[1]}2"
    assert set(np.unique(config.open("test")[0].labels)) == {0, 1, 2}


def test_a_flat_folder_is_split_by_list_files(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x", 8))
    (tmp_path / "train.txt").write_text("x3\nx1\nx2\n")
    (tmp_path / "val.txt").write_text("images/x5.jpg\nimages/x0.jpg\n")
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"))
    assert [config.open("train")[i].id for i in range(3)] == ["x3", "x1", "x2"]
    assert [config.open("validation")[i].id for i in range(2)] == ["x5", "x0"]


def test_a_list_may_name_image_and_mask_with_the_folders_of_another_machine(tmp_path):
    write_pairs(tmp_path / "a", tmp_path / "b", stems("x"))
    (tmp_path / "all.txt").write_text("/SegNet/data/a/x1.jpg /SegNet/data/b/x1.png\na/x2.jpg b/x3.png\n")
    files = {"images": "a/*.jpg", "masks": "b/*.png", "stems": "all.txt"}
    config = FolderConfig(data_dir=tmp_path, train=files, validation=files, classes=("a", "b", "c"))
    assert [config.open("train")[i].id for i in range(2)] == ["x1", "x2"]
    (tmp_path / "all.txt").write_text("a/x1.jpg b/y1.png\n")
    with pytest.raises(DataError, match=r"all.txt` names `b/y1.png`: no such file"):
        config.open("train")


def test_globs_choose_the_files_of_each_part(tmp_path):
    write_pairs(tmp_path / "2024" / "photos", tmp_path / "drawn", ["p1", "p2", "q1"])
    config = FolderConfig(
        data_dir=tmp_path,
        train={"images": "**/photos/p*.jpg", "masks": "drawn/p*.png"},
        validation={"images": "**/q*.jpg", "masks": "drawn/q*.png"},
        classes=("a", "b", "c"),
    )
    assert (len(config.open("train")), len(config.open("validation"))) == (2, 1)
    with pytest.raises(DataError, match="has no `test` part: found train, validation"):
        config.open("test")


def test_without_a_validation_part_a_seeded_share_of_training_is_held_out(tmp_path, caplog):
    write_pairs(tmp_path / "images" / "train", tmp_path / "masks" / "train", stems("x", 20))
    write_pairs(tmp_path / "images" / "test", tmp_path / "masks" / "test", stems("t", 3))
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"), validation_fraction=0.25)

    def ids(split, **changes):
        dataset = config.model_copy(update=changes).open(split)
        return {dataset[index].id for index in range(len(dataset))}

    with caplog.at_level(logging.INFO):
        held_out = ids("validation")
    assert "no validation part: 5 of its 20 training samples are held out" in caplog.text
    assert len(held_out) == 5
    assert ids("train") | held_out == set(stems("x", 20))
    assert not ids("train") & held_out
    assert ids("validation") == held_out != ids("validation", split_seed=1)
    assert ids("test") == set(stems("t", 3))


@pytest.mark.parametrize("ending", ["_mask", "_gt", "_L", "-label", ".labels", "_1_mask"])
def test_masks_may_share_an_ending(tmp_path, ending, caplog):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["a_1", "b_1", "c_1"], ending=ending)
    config = FolderConfig(data_dir=tmp_path, train={"images": "images/*", "masks": "masks/*"}, classes=("a", "b", "c"))
    with caplog.at_level(logging.INFO):
        assert len(config.open("train")) + len(config.open("validation")) == 3
    assert "matched without these endings" in caplog.text


def test_images_may_share_an_ending_too(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "none", ["a_image", "b_image"])
    write_pairs(tmp_path / "none", tmp_path / "masks", ["a_gt", "b_gt"])
    dataset = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"), validation_fraction=0.5).open("train")
    assert len(dataset) == 1


def test_missing_partners_are_named(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x", 9))
    for name in ("x2", "x5"):
        (tmp_path / "masks" / f"{name}.png").unlink()
    (tmp_path / "images" / "x7.jpg").unlink()
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"))
    with pytest.raises(DataError) as caught:
        config.open("train")
    assert "2 of 8 images have no mask (`x2.jpg`, `x5.jpg`) and 1 of 7 masks have no image (`x7.png`)" in str(
        caught.value
    )
    assert "list file" in caught.value.hint


def test_two_files_of_one_stem_are_an_error(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "x1.png")
    with pytest.raises(DataError, match="two files of one stem in the `train` part"):
        FolderConfig(data_dir=tmp_path, classes=("a", "b")).open("train")


def test_a_missing_folder_shows_what_is_there_instead(tmp_path):
    (tmp_path / "leaves").mkdir()
    with pytest.raises(DataError, match=r"leafs` does not exist") as caught:
        FolderConfig(data_dir=tmp_path / "leafs").open("train")
    assert "`leaves/`" in caught.value.hint
    (tmp_path / "data.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"data.zip` is a file") as caught:
        FolderConfig(data_dir=tmp_path / "data.zip").open("train")
    assert "unpack" in caught.value.hint


def test_a_folder_without_layout_says_what_it_holds_and_what_comes_closest(tmp_path):
    with pytest.raises(DataError, match=r"no folders of images and masks in .*: found nothing"):
        FolderConfig(data_dir=tmp_path).open("train")
    (tmp_path / "train_pictures").mkdir()
    with pytest.raises(DataError, match="found `train_pictures/`") as caught:
        FolderConfig(data_dir=tmp_path).open("train")
    assert "{train,val,test}/images" in caught.value.hint
    write_pairs(tmp_path / "inner" / "images", tmp_path / "inner" / "masks", stems("x"))
    with pytest.raises(DataError) as caught:
        FolderConfig(data_dir=tmp_path).open("train")
    assert "inner` looks like a data set" in caught.value.hint


def test_a_part_without_masks_is_an_error_when_it_is_asked_for(tmp_path):
    write_pairs(tmp_path / "train_images", tmp_path / "train_masks", stems("x"))
    write_pairs(tmp_path / "test_images", tmp_path / "elsewhere", stems("t"))
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"))
    assert len(config.open("train")) == 3
    with pytest.raises(DataError, match=r"the `test` part has images and no masks: found .*test_images"):
        config.open("test")


def test_two_folders_for_one_thing_are_an_error(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    write_pairs(tmp_path / "images", tmp_path / "labels", stems("x"))
    with pytest.raises(DataError, match="could both be the masks of the data set"):
        FolderConfig(data_dir=tmp_path).open("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("x1\nx9\n", "names `x9`: no image of that name among 4"),
        ("x1\nx1\n", "names `x1` more than once"),
    ],
)
def test_a_wrong_list_file_is_an_error(tmp_path, text, message):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        FolderConfig(data_dir=tmp_path, classes=("a", "b", "c")).open("train")


@pytest.mark.parametrize(
    ("images", "message"), [("*.bmp", "matches no image"), ("/etc/*", "is not a glob inside the data folder")]
)
def test_a_glob_that_finds_nothing_is_an_error(tmp_path, images, message):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    with pytest.raises(DataError, match=f"`data.train.images` {message}"):
        FolderConfig(data_dir=tmp_path, train={"images": images, "masks": "masks/*"}).open("train")


@pytest.mark.parametrize(
    "wrong", [{"train": {"images": "*.jpg"}}, {"train": {}}, {"validation_fraction": 1.0}, {"dir": "x"}]
)
def test_impossible_settings_are_refused(tmp_path, wrong):
    with pytest.raises(ValidationError):
        FolderConfig(data_dir=tmp_path, **wrong)


CLASS_FILES = {
    "info.json": json.dumps(
        {"names": ["a", "b", "c"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "ignore_index": 4}
    ),
    "id2label.json": json.dumps({"0": "a", "1": "b", "2": "c"}),
    "classes.txt": "a\nb\n\nc\n",
    "classes.json": json.dumps({"a": 0, "c": 2, "b": 1}),
    "classes.yaml": "classes: [a, b, c]\n",
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_class_names_are_found_beside_the_data_or_by_their_path(tmp_path, name):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    (tmp_path / name).write_text(CLASS_FILES[name])
    assert FolderConfig(data_dir=tmp_path).labels().names == ("a", "b", "c")
    (tmp_path / name).rename(tmp_path / f"my-{name}")
    labels = FolderConfig(data_dir=tmp_path, classes=f"my-{name}").labels()
    assert labels.names == ("a", "b", "c")
    if name == "info.json":
        assert labels.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
        assert labels.table[4] == 255


def test_raw_values_with_gaps_are_read_from_id2label(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 7, 11, 255))
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "sky", "7": "road", "11": "car", "255": "void"}))
    dataset = FolderConfig(data_dir=tmp_path).open("train")
    assert dataset.labels.names == ("sky", "road", "car")
    assert list(dataset[0].labels[0, :4]) == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.json", '{"0": "a", "128": "b", "255": "dog"}', "class `dog` has the raw value 255, which is ignored"),
        ("classes.txt", "\n".join(f"c{raw}" for raw in range(256)), "class `c255` has the raw value 255"),
        (
            "info.json",
            '{"names": ["a", "b", "c"], "ignore_index": 0}',
            "class `a` has the raw value 0, which is ignored",
        ),
        ("classes.txt", "a\nb\nb\n", "give the name `b` more than once"),
        ("classes.json", '{"a": 0, "b": 1, "c": 1}', "give the raw value `1` more than once"),
        ("class_dict.csv", "name,r,g,b\na,0,0,0\nb,9,9,9\na,1,1,1\n", "give the name `a` more than once"),
    ],
)
def test_classes_that_would_be_lost_are_refused(tmp_path, name, text, message):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 1))
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        FolderConfig(data_dir=tmp_path).labels()


@pytest.mark.parametrize("line", ["{}", "{}.ppm", "images/{}.ppm"])
def test_a_list_may_name_files_with_spaces_and_any_ending(tmp_path, line):
    write_pairs(tmp_path / "images", tmp_path / "masks", ["img 1", "img 2"], values=(0, 1))
    for path in sorted((tmp_path / "images").iterdir()):
        Image.open(path).save(path.with_suffix(".ppm"))
        path.unlink()
    (tmp_path / "train.txt").write_text(line.format("img 2") + "\n")
    (tmp_path / "val.txt").write_text(line.format("img 1") + "\n")
    config = FolderConfig(data_dir=tmp_path)
    assert [config.open(split)[0].id for split in ("train", "validation")] == ["img 2", "img 1"]


def test_a_void_class_that_comes_first_is_left_out_where_the_file_ignores_its_value(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 1, 2))
    (tmp_path / "info.json").write_text('{"names": ["Void", "road", "car"], "ignore_index": 0}')
    dataset = FolderConfig(data_dir=tmp_path).open("train")
    assert dataset.labels.names == ("road", "car")
    assert list(dataset[0].labels[0, :3]) == [255, 0, 1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [("gone.txt", r"class names `gone.txt` cannot be read"), ("names.txt", None), ("a,,b", "holds an empty name")],
)
def test_the_flag_for_classes_takes_a_file_in_the_data_folder_and_no_other_name_of_a_file(tmp_path, flag, message):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 1))
    (tmp_path / "names.txt").write_text("a\nb\n")
    classes = source_flags(SourceOptions(classes=flag), default="folder")["data.classes"]
    if message is None:
        assert FolderConfig(data_dir=tmp_path, classes=classes).labels().names == ("a", "b")
        return
    with pytest.raises((DataError, ValidationError), match=message):
        FolderConfig(data_dir=tmp_path, classes=classes).labels()


def test_the_first_class_may_have_another_value_than_0(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 1, 2))
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b"), first_value=1, ignored_values=(0,))
    assert list(config.open("train")[0].labels[0, :3]) == [255, 0, 1]


def test_classes_can_be_merged(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"))
    groups = {"ab": ["a", "b"], "rest": ["*"]}
    config = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c"), merge=groups)
    assert config.labels().names == ("ab", "rest")
    assert list(config.open("train")[0].labels[0, :3]) == [0, 0, 1]


def test_classes_without_names_are_found_in_the_masks(tmp_path, caplog):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0, 1, 255))
    write_pairs(tmp_path / "images", tmp_path / "masks", ["y"], values=(0, 3))
    with caplog.at_level(logging.INFO):
        labels = FolderConfig(data_dir=tmp_path).labels()
    assert labels.names == ("class_0", "class_1", "class_3")
    assert "3 found in the masks: class_0, class_1, class_3" in caplog.text


def test_one_value_is_no_data_set(tmp_path):
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=(0,))
    with pytest.raises(DataError, match=r"the masks hold only the values \[0\]"):
        FolderConfig(data_dir=tmp_path).labels()


def painted(tmp_path):
    road, car, ignore = COLORS.values()
    pixels = (*road, *car, *ignore)
    write_pairs(tmp_path / "images", tmp_path / "masks", stems("x"), values=pixels, painted=True)


@pytest.mark.parametrize("source", ["settings", "csv in the folder", "csv by path"])
def test_painted_masks_are_read_by_a_colour_table(tmp_path, source):
    painted(tmp_path)
    if source == "settings":
        config = FolderConfig(data_dir=tmp_path, colors=COLORS)
    else:
        name = "class_dict.csv" if source == "csv in the folder" else "mine.csv"
        lines = [f"{key}, {r}, {g}, {b}" for key, (r, g, b) in COLORS.items()]
        (tmp_path / name).write_text("\n".join(["name,r,g,b", *lines]))
        config = FolderConfig(data_dir=tmp_path, colors=None if name == "class_dict.csv" else name)
    dataset = config.open("train")
    assert dataset.labels.names == ("road", "car")
    assert dataset.labels.palette == (COLORS["road"], COLORS["car"])
    assert list(dataset[0].labels[0, :3]) == [0, 1, 255]
    assert verify(dataset, workers=0).pixels == (48, 48)


def test_named_classes_order_the_colours(tmp_path):
    painted(tmp_path)
    config = FolderConfig(data_dir=tmp_path, classes=("car", "road"), colors=COLORS)
    assert list(config.open("train")[0].labels[0, :3]) == [1, 0, 255]
    with pytest.raises(DataError, match=r"data.colors has no colour for `bus`"):
        FolderConfig(data_dir=tmp_path, classes=("car", "road", "bus"), colors=COLORS).labels()
    with pytest.raises(DataError, match=r"data.colors gives a colour to the unknown class `road`"):
        FolderConfig(data_dir=tmp_path, classes=("car",), colors=COLORS).labels()


def test_a_palette_beside_the_names_is_the_colour_table_of_painted_masks(tmp_path, caplog):
    painted(tmp_path)
    info = {"names": ["road", "car", "ground"], "palette": list(COLORS.values())}
    (tmp_path / "info.json").write_text(json.dumps(info))
    with caplog.at_level(logging.INFO):
        assert list(FolderConfig(data_dir=tmp_path).open("train")[0].labels[0, :3]) == [0, 1, 2]
    assert "read by the palette of" in caplog.text


def test_painted_masks_without_a_table_show_their_colours(tmp_path):
    painted(tmp_path)
    with pytest.raises(DataError, match=r"is an RGB image with 3 colours: \[0, 0, 0\], \[0, 0, 142\]") as caught:
        FolderConfig(data_dir=tmp_path).labels()
    assert "data.colors" in caught.value.hint


def test_a_colour_outside_the_table_is_named(tmp_path):
    painted(tmp_path)
    with pytest.raises(DataError, match=r"x0.png`: mask has the colour \(0, 0, 0\) in 16 pixels"):
        _ = FolderConfig(data_dir=tmp_path, colors={k: v for k, v in COLORS.items() if k != "ignore"}).open("train")[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("a", "a")},
        {"classes": ()},
        {"colors": COLORS, "first_value": 1},
        {"colors": COLORS, "ignored_values": (0,)},
    ],
)
def test_class_settings_that_contradict_are_refused(tmp_path, wrong):
    with pytest.raises(ValidationError):
        FolderConfig(data_dir=tmp_path, **wrong)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "", "in no form that is known"),
        ("c.json", "{", "cannot be read"),
        ("c.json", '{"a": "b"}', "in no form that is known"),
        ("c.json", '{"names": ["a"], "palette": []}', "1 names and 0 colours"),
        ("c.json", '{"a": [1, 2]}', r"the colour of `a` is \[1, 2\]: expected three numbers"),
        ("c.json", '{"a": [1, 2, 3], "b": [1, 2, 3]}', "gives one colour to several classes: got `a`, `b`"),
        ("c.csv", "a,b\n1,2\n", "has no columns name, r, g, b"),
        ("c.csv", "name,r,g,b\na,1,2,x\n", "expected whole numbers"),
    ],
)
def test_a_class_file_that_cannot_be_understood_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / name)
    with pytest.raises(DataError, match=r"gone.txt` cannot be read"):
        read_classes(tmp_path / "gone.txt")
