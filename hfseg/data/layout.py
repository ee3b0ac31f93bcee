"""Which folders of a data set hold images and masks, found by their names."""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hfseg.data.table import Split
from hfseg.errors import DataError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2"}
_SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "jpegimages"}
_MASK_WORDS = {"mask", "masks", "label", "labels", "annotation", "annotations", "annots", "segmentationclass"}
_LIST_DIRS = ("", "splits", "ImageSets/Segmentation")
LAYOUTS = (
    "train_images/ train_masks/ valid_images/ valid_masks/",
    "images/{train,val,test} masks/{train,val,test}",
    "{train,val,test}/images {train,val,test}/masks",
    "images/ masks/ (with train.txt and val.txt, if there are fixed parts)",
)


@dataclass(frozen=True)
class Part:
    """Where one part of a data set lies; `list_path` names the stems that belong to it."""

    images_dir: Path | None
    masks_dir: Path | None
    list_path: Path | None = None


def find_parts(data_dir: Path) -> dict[Split, Part]:
    """Find the parts of a data folder by the names of its folders.

    Words for training, validation and test may stand before or behind `images` and `masks` (or `labels`,
    `annotations`), joined by `/`, `_` or `-`. A flat pair of folders is split by list files, or is all training.

    Raises:
        DataError: it is no folder, holds no such folders, or two folders claim the same part; says what was found.
    """
    if data_dir.is_file():
        hint = "unpack it and give the folder" if data_dir.suffix in (".zip", ".tar", ".gz", ".tgz") else None
        raise DataError(
            f"data folder `{data_dir}` is a file", hint=hint or "give the folder that holds images and masks"
        )
    if not data_dir.is_dir():
        raise DataError(f"data folder `{data_dir}` does not exist", hint=_nearest_existing(data_dir))
    found = _classify(data_dir)
    parts = _split_parts(found) or _listed_parts(data_dir, found)
    if not parts:
        raise DataError(
            f"no folders of images and masks in `{data_dir}`: found {_inventory(data_dir)}", hint=_nearest(data_dir)
        )
    return parts


def image_files(folder: Path) -> list[Path]:
    """List the image files of a folder, sorted, hidden files left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith("."))


_Key = tuple[Split | None, str]


def _classify(data_dir: Path) -> dict[_Key, Path]:
    """Name the part and the kind of every folder, at most two deep, whose path says both and nothing else."""
    found: dict[_Key, Path] = {}
    for folder in sorted([*data_dir.glob("*/"), *data_dir.glob("*/*/")]):
        key = _key(folder.relative_to(data_dir)) if folder.is_dir() else None
        if key is None or not image_files(folder):
            continue
        if key in found:
            raise DataError(
                f"`{found[key]}` and `{folder}` could both be the {key[1]} of {key[0] or 'the data set'}",
                hint="rename one, or say which: --set data.train.images='a/*.jpg' --set data.train.masks='b/*.png'",
            )
        found[key] = folder
    return found


def _key(relative: Path) -> _Key | None:
    words = [word for word in re.split(r"[/\\_\-. ]+", relative.as_posix().lower()) if word]
    splits = [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]
    kinds = ["images" if word in _IMAGE_WORDS else "masks" for word in words if word in _IMAGE_WORDS | _MASK_WORDS]
    if len(kinds) != 1 or len(splits) > 1 or len(splits) + 1 != len(words):
        return None
    return (splits[0] if splits else None), kinds[0]


def _split_parts(found: dict[_Key, Path]) -> dict[Split, Part]:
    splits = dict.fromkeys(split for split, _ in found if split is not None)
    return {split: Part(found.get((split, "images")), found.get((split, "masks"))) for split in splits}


def _listed_parts(data_dir: Path, found: dict[_Key, Path]) -> dict[Split, Part]:
    images_dir, masks_dir = found.get((None, "images")), found.get((None, "masks"))
    if images_dir is None and masks_dir is None:
        return {}
    parts: dict[Split, Part] = {}
    for folder, (word, split) in product(_LIST_DIRS, _SPLIT_WORDS.items()):
        path = data_dir / folder / f"{word}.txt"
        if path.is_file():
            parts.setdefault(split, Part(images_dir, masks_dir, path))
    return parts or {"train": Part(images_dir, masks_dir)}


def _inventory(data_dir: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in data_dir.iterdir() if not p.name.startswith("."))
    shown = ", ".join(f"`{name}`" for name in names[:8])
    return f"{shown}{f' and {len(names) - 8} more' if len(names) > 8 else ''}" if names else "nothing"


def _nearest(data_dir: Path) -> str:
    """Say which known layout comes closest, or that the data set lies one folder further down."""
    for inner in sorted(p for p in data_dir.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if _classify(inner):
            return f"`{inner}` looks like a data set: give it as `data.data_dir`"
    words = {w for p in data_dir.iterdir() if p.is_dir() for w in re.split(r"[_\-. ]+", p.name.lower())}
    if words & (_IMAGE_WORDS | _MASK_WORDS):
        nearest = LAYOUTS[1] if not words & _SPLIT_WORDS.keys() else LAYOUTS[0]
    elif words & _SPLIT_WORDS.keys():
        nearest = LAYOUTS[2]
    else:
        nearest = LAYOUTS[3]
    return (
        f"the nearest known layout is {nearest}; for any other, give globs: "
        "--set data.train.images='photos/*.jpg' --set data.train.masks='drawn/*.png'"
    )


def _nearest_existing(data_dir: Path) -> str:
    parent = next((p for p in data_dir.absolute().parents if p.is_dir()), data_dir)
    return f"`{parent}` exists and holds {_inventory(parent)}"
