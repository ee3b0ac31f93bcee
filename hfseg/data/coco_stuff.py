"""COCO-Stuff 164k: COCO 2017's images with the pixel maps of things and stuff, in folders or zips read in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hfseg.data.merging import merged
from hfseg.data.official import official
from hfseg.data.settings import DatasetSettings
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.data.tree import Tree, open_tree, paired
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

_PARTS: dict[Split, str] = {"train": "train2017", "validation": "val2017"}
_MAPS_ZIP = "stuffthingmaps_trainval2017.zip"
_STEM = "?" * 12
"""Files are numbered with twelve digits; other tools leave converted maps of longer names beside them."""


class CocoStuffConfig(DatasetSettings):
    """COCO-Stuff: 118,287 training and 5,000 validation images in 80 classes of things and 91 of stuff."""

    kind: Literal["coco-stuff"] = "coco-stuff"
    data_dir: Path
    """The folder that holds the images (`train2017` and `val2017`, also in `images`, or their zips) and the maps
    (`train2017` and `val2017` in `stuffthingmaps` or `annotations`, or `stuffthingmaps_trainval2017.zip`)."""

    def labels(self) -> LabelSpace:
        """Give the 171 classes, or what they are merged into; 255 is ignored."""
        return merged(official("coco-stuff").labels, self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part.

        Raises:
            DataError: there is no such part, or files are missing or have no partner.
        """
        if split == "test":
            raise DataError("coco-stuff has no `test` part with labels", hint="its parts are train and validation")
        part = _PARTS[split]
        images = self._tree(part, ("images", ""), f"{part}.zip", "http://images.cocodataset.org/zips")
        maps = self._tree(part, ("stuffthingmaps", "annotations"), _MAPS_ZIP, "https://github.com/nightrome/cocostuff")
        table = table_of(paired(images, f"{part}/{_STEM}.jpg", maps, f"{part}/{_STEM}.png"))
        official("coco-stuff").compare_size(split, len(table))
        return TableDataset(table, self.labels(), name="coco-stuff", rare_class_crop=self.rare_class_crop)

    def _tree(self, part: str, folders: Sequence[str], archive: str, home: str) -> Tree:
        tree = open_tree(self.data_dir, part, folders=folders, archive=archive)
        if tree is None:
            places = " or ".join(f"{folder}/{part}" if folder else part for folder in folders)
            raise DataError(
                f"no COCO-Stuff in `{self.data_dir}`: looked for {places}, and for {archive}",
                hint=f"download {archive}, see {home}; it need not be unpacked",
            )
        return tree
