"""Classes merge into fewer, as the settings or a file say."""

import numpy as np
import pytest
import yaml

from hfseg.data import Ade20kConfig
from hfseg.data.ade20k import Ade20kFourConfig
from hfseg.data.merging import merged, packaged_merges
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

SPACE = LabelSpace.from_names(["sky", "tree", "grass", "car"])
FOUR = ("background", "plant", "person/animal", "vehicle")


def test_classes_merge_into_groups_and_ignored_ones():
    space = merged(SPACE, {"plant": ["tree", "grass"], "ignore": ["car"], "rest": ["*"]})
    assert space.names == ("plant", "rest")
    assert space.palette == (SPACE.palette[1], SPACE.palette[0])
    assert space.encode(np.array([[0, 1, 2, 3, 255]], dtype=np.uint8)).tolist() == [[1, 0, 0, 255, 255]]
    assert merged(SPACE, None) is SPACE


def test_everything_that_is_not_named_may_be_ignored():
    space = merged(SPACE, {"car": ["car"], "ignore": ["*"]})
    assert space.names == ("car",)
    assert space.encode(np.array([[0, 1, 2, 3]], dtype=np.uint8)).tolist() == [[255, 255, 255, 0]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ["sky", "sea"]}, "names an unknown class: got `sea`"),
        ({"a": ["sky"], "b": ["sky", "*"]}, "class `sky` stands in two merge groups: `a` and `b`"),
        ({"a": ["*"], "b": ["*"]}, r"class `\*` stands in two merge groups"),
        ({"a": ["sky"]}, "no merge group holds `tree`, `grass`, `car`: 3 are left over"),
        ({"a": ["*"], "b": []}, "merge group `b` has no classes"),
        ({"a": ["sky", "tree", "grass", "car"], "b": ["*"]}, "merge group `b` has no classes"),
        ({"ignore": ["*"]}, "at least one class"),
    ],
)
def test_wrong_merges_are_explained(groups, message):
    with pytest.raises(DataError, match=message):
        merged(SPACE, groups)


def test_a_file_holds_the_groups_and_may_hold_their_colours(tmp_path):
    tree = {"merge": {"plant": ["tree", "grass"], "rest": ["*"]}, "palette": {"rest": [1, 2, 3]}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    space = merged(SPACE, str(path))
    assert (space.names, space.palette) == (("plant", "rest"), (SPACE.palette[1], (1, 2, 3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge: [", "cannot be read: while parsing"),
        ("[a, b]", "holds list: expected `merge`"),
        ("plant: [tree]", "holds the keys plant: expected `merge`"),
        ("merge: {a: [tree]}\nnames: [a]", "holds the keys merge, names: expected `merge`, and `palette` if wanted"),
        ("merge: {a: tree}", "`merge` is not a mapping of lists"),
        ('merge: {a: ["*"]}\npalette: [[1, 2, 3]]', "`palette` is not a mapping of lists"),
        ('merge: {a: ["*"]}\npalette: {b: [1, 2, 3]}', "`palette` names an unknown group: got `b`"),
        ('merge: {a: ["*"]}\npalette: {a: [1, 2, 300]}', r"the colour of `a` is \[1, 2, 300\]"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=f"mine.yaml`.*{message}"):
        merged(SPACE, str(path))


def test_a_merge_that_is_not_there_shows_those_that_are():
    with pytest.raises(DataError, match="merge file `ade20k-5` cannot be read: No such file") as caught:
        merged(SPACE, "ade20k-5")
    assert packaged_merges() == ["ade20k-4", "camvid-11", "camvid-12"]
    assert caught.value.hint.endswith("ade20k-4, camvid-11, camvid-12")


def test_ade20k_merges_into_four_classes_by_the_packaged_list():
    space = Ade20kFourConfig().labels()
    assert space == Ade20kConfig(merge="ade20k-4").labels()
    assert space.names == FOUR
    raw_of = {name: raw for raw, name in enumerate(Ade20kConfig().labels().names, start=1)}
    wanted = {"wall": 0, "tank": 0, "tree": 1, "palm": 1, "person": 2, "animal": 2, "boat": 3, "minibike": 3}
    assert {name: space.table[raw_of[name]] for name in wanted} == wanted
    assert [space.table[raw] for raw in (0, 255)] == [255, 255]
    counts = np.bincount([label for label in space.table.values() if label != 255])
    assert counts.tolist() == [134, 5, 2, 9]
    two = Ade20kFourConfig(merge={"vehicle": ["vehicle"], "ignore": ["plant"], "rest": ["*"]}).labels()
    assert [two.table[raw_of[name]] for name in ("car", "tree", "wall", "person")] == [0, 255, 1, 1]
