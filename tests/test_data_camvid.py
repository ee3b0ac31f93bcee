"""CamVid as index masks and as painted masks, in 11, 12 and 32 classes."""

import shutil

import pytest
from layouts import CAM_FRAMES, PARTS, ids, made_camvid, painted_camvid

from hfseg.data import verify
from hfseg.data.camvid import CamvidConfig
from hfseg.data.official import official
from hfseg.errors import DataError

SEGNET = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian")
SEGNET = (*SEGNET, "Bicyclist")


@pytest.mark.parametrize(("images", "masks"), [("{}", "{}annot"), ("images/{}", "masks/{}")])
@pytest.mark.parametrize("void", [11, 255])
def test_camvid_of_indices_has_the_classes_of_segnet(tmp_path, images, masks, void):
    root = made_camvid(tmp_path, images, masks, values=(0, 1, void, 10))
    config = CamvidConfig(data_dir=root)
    assert config.labels().names == SEGNET
    assert config.labels().palette[4] == (60, 40, 222)
    assert [ids(config.open(part)) for part in PARTS] == list(CAM_FRAMES.values())
    assert config.open("test")[0].labels[0].tolist() == [0, 1, 255, 10]
    with_void = CamvidConfig(data_dir=root, classes=12)
    assert with_void.labels().names == (*SEGNET, "Void")
    assert with_void.open("test")[0].labels[0].tolist() == [0, 1, 11, 10]
    with pytest.raises(DataError, match="hold SegNet's 11 classes and void: got data.classes=32"):
        CamvidConfig(data_dir=root, classes=32).labels()


@pytest.mark.parametrize("zipped", [False, True])
def test_camvid_as_painted_has_11_or_12_or_32_classes(tmp_path, zipped, caplog):
    root = painted_camvid(tmp_path, zipped=zipped)
    eleven, twelve, all_classes = (CamvidConfig(data_dir=root, classes=count) for count in (11, 12, 32))
    assert [ids(eleven.open(part)) for part in PARTS] == [sorted(frames) for frames in CAM_FRAMES.values()]
    assert "the `test` part of camvid holds 2 samples: the published one has 233" in caplog.text
    assert eleven.labels().names == SEGNET
    assert eleven.open("train")[0].labels[0].tolist() == [0, 1, 255, 10]
    assert twelve.open("train")[0].labels[0].tolist() == [0, 1, 11, 10]
    names = all_classes.labels().names
    assert [names[label] for label in all_classes.open("train")[0].labels[0]] == ["Sky", "Archway", "Void", "Bicyclist"]
    assert verify(eleven.open("train"), workers=0).ignored_pixels == 18


def test_both_forms_of_camvid_give_the_same_classes_and_colours(tmp_path):
    indexed = CamvidConfig(data_dir=made_camvid(tmp_path / "a", "{}", "{}annot")).labels()
    painted = CamvidConfig(data_dir=painted_camvid(tmp_path / "b")).labels()
    assert (indexed.names, indexed.palette) == (painted.names, painted.palette)


def test_lists_say_the_parts_of_camvid(tmp_path):
    root = made_camvid(tmp_path / "a", "{}", "{}annot")
    line = "/SegNet/CamVid/train/0006R0_f00930.png /SegNet/CamVid/trainannot/0006R0_f00930.png\n"
    (root / "train.txt").write_text(line)
    assert ids(CamvidConfig(data_dir=root).open("train")) == ["0006R0_f00930"]
    assert ids(CamvidConfig(data_dir=root).open("validation")) == CAM_FRAMES["val"]
    root = painted_camvid(tmp_path / "b", zipped=True)
    (root / "train.txt").write_text("Seq05VD_f00000\n0016E5_07959\n")
    assert ids(CamvidConfig(data_dir=root).open("train")) == ["Seq05VD_f00000", "0016E5_07959"]
    with pytest.raises(DataError, match="has lists and none of the `test` part: found train.txt"):
        CamvidConfig(data_dir=root).open("test")


def test_camvid_that_is_not_there_or_not_itself_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no CamVid in .*: found neither train and trainannot"):
        CamvidConfig(data_dir=tmp_path).open("train")
    root = painted_camvid(tmp_path)
    for folder, ending in (("701_StillsRaw_full", ""), ("LabeledApproved_full", "_L")):
        (root / folder / f"0016E5_07959{ending}.png").rename(root / folder / f"night_00001{ending}.png")
    with pytest.raises(DataError, match="frame `night_00001` is in none of CamVid's sequences"):
        CamvidConfig(data_dir=root).open("train")
    shutil.rmtree(root / "LabeledApproved_full")
    with pytest.raises(DataError, match="nor LabeledApproved_full"):
        CamvidConfig(data_dir=root).open("train")


@pytest.mark.parametrize("classes", [11, 12, 32])
def test_the_classes_of_camvid_are_known_without_its_files(tmp_path, classes):
    names = CamvidConfig(data_dir=painted_camvid(tmp_path / "there"), classes=classes).labels().names
    assert CamvidConfig(data_dir=tmp_path / "nowhere", classes=classes).labels().names == names


def test_the_frames_of_camvid_fall_into_the_parts_of_segnet():
    parts = [row[3] for row in official("camvid").tree["sequences"]]
    assert sorted(set(parts)) == ["test", "train", "validation"]
    assert sum(official("camvid").num_samples.values()) == 701
