"""Pascal VOC 2012 segmentation, with or without the extra masks of SBD."""

from pathlib import Path
from typing import Literal

from hfseg.data.layout import image_files
from hfseg.data.merging import merged
from hfseg.data.official import official
from hfseg.data.pairing import pair_listed
from hfseg.data.settings import DatasetSettings
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

_ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012")


class VocConfig(DatasetSettings):
    """Pascal VOC 2012: 1,464 training and 1,449 validation images in 21 classes, background among them."""

    kind: Literal["voc"] = "voc"
    data_dir: Path
    """`VOC2012`, `VOCdevkit`, or the folder that holds it."""
    train_aug: bool = False
    """Train on the 10,582 images of `trainaug.txt` with the masks of `SegmentationClassAug`; validation stays."""

    def labels(self) -> LabelSpace:
        """Give the 21 classes, or what they are merged into; the void outlines are ignored."""
        return merged(official("voc").labels, self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part, in the order of its list.

        Raises:
            DataError: there is no such part, or a list, an image or a mask is missing.
        """
        if split == "test":
            raise DataError("voc has no `test` part with labels", hint="its parts are train and validation")
        augmented = self.train_aug and split == "train"
        folder, stem = ("SegmentationClassAug", "trainaug") if augmented else ("SegmentationClass", _LISTS[split])
        root = self._root()
        list_path = root / "ImageSets" / "Segmentation" / f"{stem}.txt"
        for path in (root / folder, list_path):
            if not path.exists():
                raise DataError(
                    f"no `{path.relative_to(root)}` in `{root}`", hint=_AUGMENTED if augmented else _OFFICIAL
                )
        images, masks = image_files(root / "JPEGImages"), image_files(root / folder)
        table = table_of(pair_listed(list_path, images, masks, data_dir=root))
        official("voc").compare_size(split, len(table), samples="augmented_samples" if augmented else "samples")
        return TableDataset(table, self.labels(), name="voc", rare_class_crop=self.rare_class_crop)

    def _root(self) -> Path:
        root = next((self.data_dir / root for root in _ROOTS if (self.data_dir / root / "JPEGImages").is_dir()), None)
        if root is None:
            looked = ", ".join(root or "it" for root in _ROOTS)
            raise DataError(f"no Pascal VOC in `{self.data_dir}`: looked for JPEGImages in {looked}", hint=_OFFICIAL)
        return root


_LISTS: dict[Split, str] = {"train": "train", "validation": "val"}
_OFFICIAL = "download VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and unpack it"
_AUGMENTED = (
    "the masks of SBD (Hariharan et al., 2011) in VOC's form and their list are passed around as SegmentationClassAug "
    "and trainaug.txt; put them there, or set data.train_aug=false"
)
