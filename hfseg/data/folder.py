"""A person's own folder of images and masks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from hfseg.config import Config
from hfseg.data.layout import IMAGE_ENDINGS, LAYOUTS, Part, find_parts, image_files
from hfseg.data.pairing import Pair, pair_by_stem, pair_listed
from hfseg.data.record import Record
from hfseg.data.space import LabelSettings, label_space
from hfseg.data.table import Split, TableDataset, seeded_split, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Files:
    """The files of one part, not matched yet."""

    images: list[Path]
    masks: list[Path]
    list_path: Path | None
    where: str


class SplitFiles(Config):
    """The files of one part, where the names of the folders do not say them."""

    images: str | None = None
    """Glob of the images inside the data folder, for instance `photos/*.jpg`."""
    masks: str | None = None
    """Glob of the masks inside the data folder."""
    stems: Path | None = None
    """List file: a stem or an image path a line, or an image path and a mask path; the files are those of `images` and
    `masks`, or the folders that were found."""

    @model_validator(mode="after")
    def _both_globs(self) -> "SplitFiles":
        if (self.images is None) != (self.masks is None):
            given, other = ("images", "masks") if self.masks is None else ("masks", "images")
            raise ValueError(f"`{given}` was given without `{other}`: expected both globs")
        if self.images is None and self.stems is None:
            raise ValueError("a part needs the globs `images` and `masks`, or the list file `stems`")
        return self

    def globs(self) -> dict[str, str]:
        """The globs by what they match."""
        return {} if self.images is None or self.masks is None else {"images": self.images, "masks": self.masks}


class FolderConfig(LabelSettings):
    """Images and masks in folders, matched by stem; parts and classes are found where they are not given."""

    kind: Literal["folder"] = "folder"
    data_dir: Path
    """The folder that holds the images and masks."""
    train: SplitFiles | None = None
    """Training files; found by the names of the folders where not given."""
    validation: SplitFiles | None = None
    """Validation files; a seeded share of the training files where there are none."""
    test: SplitFiles | None = None
    """Test files."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training samples that is held out, where there is no validation part."""
    split_seed: NonNegativeInt = 0
    """Which training samples those are."""

    def labels(self) -> LabelSpace:
        """Give the classes: from the settings, from a file in the folder, or by scanning every mask.

        Raises:
            DataError: names, values and colours do not fit together, or there are no masks.
        """
        return self._space(self._parts())

    def open(self, split: Split) -> TableDataset:
        """Open one part.

        Raises:
            DataError: folder, part or a partner is missing, or the part is empty; says what was looked for and found.
        """
        parts = self._parts()
        name = self.data_dir.resolve().name
        if (split == "validation" and split not in parts) or (split == "train" and "validation" not in parts):
            pairs = self._held_out(_pairs(parts, "train", self.data_dir), split, name)
        else:
            pairs = _pairs(parts, split, self.data_dir)
        return TableDataset(table_of(pairs), self._space(parts), name=name, rare_class_crop=self.rare_class_crop)

    def _held_out(self, train: list[Pair], split: Split, name: str) -> list[Pair]:
        part: Literal["train", "validation"] = "validation" if split == "validation" else "train"
        chosen = seeded_split(len(train), fraction=self.validation_fraction, seed=self.split_seed, part=part, name=name)
        if split == "validation":
            log.info(
                "`%s` has no validation part: %d of its %d training samples are held out", name, len(chosen), len(train)
            )
        return [train[index] for index in chosen]

    def _space(self, parts: Mapping[Split, _Files]) -> LabelSpace:
        pairs = [pair for split, files in parts.items() if files.masks for pair in _pairs(parts, split, self.data_dir)]
        records = [Record({"path": str(image)}, {"path": str(mask)}, image.stem) for image, mask in pairs]
        return label_space(self, lambda: records, data_dir=self.data_dir)

    def _parts(self) -> dict[Split, _Files]:
        """The files of each part: those that were given, else those that are found."""
        given: dict[Split, SplitFiles | None] = {"train": self.train, "validation": self.validation, "test": self.test}
        chosen = {split: files for split, files in given.items() if files is not None}
        if not chosen or any(files.images is None for files in chosen.values()):
            found = {split: _files_of(part) for split, part in find_parts(self.data_dir).items()}
            if not chosen:
                return found
        elif self.data_dir.is_dir():
            found = {}
        else:
            raise DataError(f"data folder `{self.data_dir}` does not exist")
        return {split: _given_files(self.data_dir, split, files, found) for split, files in chosen.items()}


def _files_of(part: Part) -> _Files:
    images, masks = ([] if folder is None else image_files(folder) for folder in (part.images_dir, part.masks_dir))
    folders = [f"`{folder}`" for folder in (part.images_dir, part.masks_dir) if folder is not None]
    return _Files(images, masks, part.list_path, " and ".join(folders))


def _given_files(data_dir: Path, split: Split, files: SplitFiles, found: Mapping[Split, _Files]) -> _Files:
    """Expand the globs, or take every file of the folders that were found."""
    stems = files.stems
    if stems is not None and not stems.is_file():
        stems = data_dir / stems
    if files.images is None or files.masks is None:
        images = sorted({path for other in found.values() for path in other.images})
        masks = sorted({path for other in found.values() for path in other.masks})
        return _Files(images, masks, stems, f"`{data_dir}`")
    matched = [_glob(data_dir, pattern, f"data.{split}.{kind}") for kind, pattern in files.globs().items()]
    return _Files(matched[0], matched[1], stems, f"`{files.images}` and `{files.masks}`")


def _glob(data_dir: Path, pattern: str, key: str) -> list[Path]:
    try:
        paths = sorted(p for p in data_dir.glob(pattern) if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    except (NotImplementedError, ValueError):
        raise DataError(
            f"`{key}` is not a glob inside the data folder: got `{pattern}`", hint="such as photos/*.jpg"
        ) from None
    if not paths:
        raise DataError(
            f"`{key}` matches no image in `{data_dir}`: got `{pattern}`",
            hint="globs are relative to the data folder; `**/*.png` looks in every folder below",
        )
    return paths


def _pairs(parts: Mapping[Split, _Files], split: Split, data_dir: Path) -> list[Pair]:
    """Match the images and masks of one part.

    Raises:
        DataError: the part, its images, its masks or a partner is missing.
    """
    if split not in parts:
        raise DataError(
            f"`{data_dir}` has no `{split}` part: found {', '.join(parts)}",
            hint=f"the known layouts are {'; '.join(LAYOUTS)}; or give `data.{split}.images` and `data.{split}.masks`",
        )
    files = parts[split]
    if not files.images or not files.masks:
        there, missing = ("masks", "images") if files.masks else ("images", "masks")
        raise DataError(
            f"the `{split}` part has {there} and no {missing}: found {files.where} in `{data_dir}`",
            hint=f"the known layouts are {'; '.join(LAYOUTS)}",
        )
    if files.list_path is not None:
        return pair_listed(files.list_path, files.images, files.masks, data_dir=data_dir)
    return pair_by_stem(files.images, files.masks, where=f"the `{split}` part ({files.where})")
