"""Cityscapes with fine annotations: the official folders or zips, read in place.

Masks are the official `*_gtFine_labelIds.png`; they become trainIds when they are read, and `LabelSpace.decode` gives
labelIds back. Masks that hold trainIds already are refused: a model trained on them could not be sent to the server.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, model_validator

from hfseg.data.merging import merged
from hfseg.data.official import official
from hfseg.data.settings import ClipSettings
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.data.tree import Tree, open_tree
from hfseg.errors import ConfigError, DataError
from hfseg.labels import LabelSpace

log = logging.getLogger(__name__)
_FOLDERS: dict[Split, str] = {"train": "train", "validation": "val"}
_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE_ENDING, _MASK_ENDING, _TRAIN_ID_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_SEQUENCE = "leftImg8bit_sequence"
_BEFORE = 19
"""Frames before the labelled one in each of the published sequences of 30; they are 1/17 s apart."""
_PARTS: tuple[Split, ...] = ("train", "validation", "test")
COURSE_SIZES = (2380.0, 595.0, 500.0)


class CityscapesConfig(ClipSettings):
    """Cityscapes: 2,975 training and 500 validation street scenes of 2048 x 1024 in 19 classes."""

    kind: Literal["cityscapes"] = "cityscapes"
    data_dir: Path
    """The folder that holds `leftImg8bit` and `gtFine`, or `leftImg8bit_trainvaltest.zip` and
    `gtFine_trainvaltest.zip`."""
    split: Literal["official", "random"] = "official"
    """`official`: the published parts, of which test has no public labels. `random`: the published training and
    validation images together, divided anew into training, validation and test."""
    split_sizes: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = COURSE_SIZES
    """Training, validation and test images of the random split: numbers, or fractions that sum to 1. Numbers that are
    not those of all images are taken in proportion."""
    split_seed: NonNegativeInt = 0
    """Which images the random split puts where."""

    @model_validator(mode="after")
    def _sizes_that_count(self) -> "CityscapesConfig":
        sizes = self.split_sizes
        if self.split == "official" and (sizes != COURSE_SIZES or self.split_seed):
            raise ValueError(
                "`split_sizes` and `split_seed` do nothing beside the official split\n\nhint: set `data.split=random`"
            )
        if max(sizes) <= 1 and abs(sum(sizes) - 1) > 1e-6:
            raise ValueError(f"the fractions in `split_sizes` sum to {sum(sizes):g}: expected 1, or numbers of images")
        if max(sizes) > 1 and any(size != int(size) for size in sizes):
            raise ValueError(f"`split_sizes` mixes numbers and fractions: got {[*sizes]}")
        return self

    def labels(self) -> LabelSpace:
        """Give the 19 classes that are evaluated, or what they are merged into."""
        return merged(official("cityscapes").labels, self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part; ids are `CITY_SEQUENCE_FRAME`.

        Raises:
            DataError: there is no such part, or files are missing or have no partner.
        """
        frames = self._official(split) if self.split == "official" else self._random(split)
        table = table_of(frames.values()).remove_columns("id").add_column("id", list(frames))
        return TableDataset(
            table,
            self.labels(),
            name="cityscapes",
            rare_class_crop=self.rare_class_crop,
            history=self._frames_before,
        )

    def _frames_before(self, ids: Sequence[str], count: int) -> list[list[str]]:
        """Find the frames before these in `leftImg8bit_sequence`, those before the first of 30 replaced by it."""
        trees = [(folder, self._sequences(folder)) for folder in _FOLDERS.values()]
        found = {
            frame: path
            for folder, tree in trees
            if tree is not None
            for frame, path in _by_id(tree, _SEQUENCE, folder, _IMAGE_ENDING).items()
        }
        if not found:
            raise ConfigError(
                f"`cityscapes` has single images only in `{self.data_dir}`: the model is to be shown {count} frames "
                f"before each, and there is no {_SEQUENCE}",
                hint=f"put {_SEQUENCE}_trainvaltest.zip, packed or not, beside it; or show single images, by "
                "model.memory_frames=0 in training and memory_frames=0 in evaluation",
            )
        return [[_of_sequence(found, name, self.frame_step * back) for back in range(count, 0, -1)] for name in ids]

    def _sequences(self, folder: str) -> Tree | None:
        package = f"{_SEQUENCE}_trainvaltest"
        return open_tree(self.data_dir, f"{_SEQUENCE}/{folder}", folders=("", package), archive=f"{package}.zip")

    def _official(self, split: Split) -> dict[str, tuple[str, str]]:
        if split == "test":
            raise DataError(
                "the `test` part of cityscapes has no labels to train on or to score: its masks are dummies",
                hint="predict the images of leftImg8bit/test and send the masks to the server, or divide the labelled "
                "images anew: --set data.split=random",
            )
        frames = _frames(self.data_dir, _FOLDERS[split])
        official("cityscapes").compare_size(split, len(frames))
        return frames

    def _random(self, split: Split) -> dict[str, tuple[str, str]]:
        pool = {frame: pair for folder in _FOLDERS.values() for frame, pair in _frames(self.data_dir, folder).items()}
        ids = sorted(pool)
        order = np.random.default_rng(np.random.SeedSequence((self.split_seed, len(ids)))).permutation(len(ids))
        bounds = [round(len(ids) * share / sum(self.split_sizes)) for share in accumulate(self.split_sizes, initial=0)]
        sizes = [high - low for low, high in pairwise(bounds)]
        if max(self.split_sizes) > 1 and sizes != [*self.split_sizes]:
            wanted = ", ".join(f"{size:g}" for size in self.split_sizes)
            log.warning("there are %d labelled images: %s is taken in proportion, %s", len(ids), wanted, sizes)
        part = _PARTS.index(split)
        chosen = sorted(order[bounds[part] : bounds[part + 1]].tolist())
        if not chosen:
            raise DataError(f"the random split gives `{split}` none of {len(ids)} images: {sizes} (`data.split_sizes`)")
        return {ids[index]: pool[ids[index]] for index in chosen}


def _of_sequence(found: Mapping[str, str], frame: str, back: int) -> str:
    """Take the frame that lies `back` before a labelled one, or the first of its sequence."""
    sequence, _, number = frame.rpartition("_")
    wanted = f"{sequence}_{int(number) - min(back, _BEFORE):0{len(number)}d}"
    if wanted not in found:
        raise DataError(
            f"frame `{wanted}` is not in {_SEQUENCE}: it comes before the labelled `{frame}`",
            hint="each labelled frame is the 20th of 30: the folder may not be wholly unpacked",
        )
    return found[wanted]


def _frames(data_dir: Path, folder: str) -> dict[str, tuple[str, str]]:
    """Find every image of one official part with its mask, by id, sorted."""
    images, masks = (_tree(data_dir, kind, folder) for kind in (_IMAGES, _MASKS))
    image_of, mask_of = _by_id(images, _IMAGES, folder, _IMAGE_ENDING), _by_id(masks, _MASKS, folder, _MASK_ENDING)
    if not mask_of and _by_id(masks, _MASKS, folder, _TRAIN_ID_ENDING):
        raise DataError(
            f"gtFine/{folder} holds no *{_MASK_ENDING}, only *{_TRAIN_ID_ENDING}: expected the official labelIds",
            hint="unpack gtFine_trainvaltest.zip over it, or put the zip beside it; nothing needs to be prepared",
        )
    if not image_of or image_of.keys() != mask_of.keys():
        lonely = sorted(image_of.keys() ^ mask_of.keys())
        shown = (
            f" ({', '.join(f'`{frame}`' for frame in lonely[:5])}{', ...' if len(lonely) > 5 else ''})"
            if lonely
            else ""
        )
        raise DataError(
            f"{folder} of cityscapes has {len(image_of)} images and {len(mask_of)} masks: {len(lonely)} have no "
            f"partner{shown}",
            hint=f"images are {_IMAGES}/{folder}/CITY/*{_IMAGE_ENDING}, masks {_MASKS}/{folder}/CITY/*{_MASK_ENDING}",
        )
    return {frame: (image_of[frame], mask_of[frame]) for frame in sorted(image_of)}


def _tree(data_dir: Path, kind: str, folder: str) -> Tree:
    package = f"{kind}_trainvaltest"
    tree = open_tree(data_dir, f"{kind}/{folder}", folders=("", package), archive=f"{package}.zip")
    if tree is None:
        raise DataError(
            f"no Cityscapes in `{data_dir}`: looked for {kind}/{folder} and for {package}.zip",
            hint=f"download {package}.zip from https://www.cityscapes-dataset.com; it need not be unpacked",
        )
    return tree


def _by_id(tree: Tree, kind: str, folder: str, ending: str) -> dict[str, str]:
    files = tree.files(f"{kind}/{folder}/*/*{ending}")
    return {file.name.removesuffix(ending): tree.address(file) for file in files}
