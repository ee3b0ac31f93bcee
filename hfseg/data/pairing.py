"""Which mask belongs to which image: by the stem of the file name."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from hfseg.data.layout import IMAGE_ENDINGS
from hfseg.errors import DataError

log = logging.getLogger(__name__)
Pair = tuple[Path, Path]
_SHOWN = 5


def pair_by_stem(images: Sequence[Path], masks: Sequence[Path], *, where: str) -> list[Pair]:
    """Pair images and masks of equal stem, sorted by the image's stem.

    Where stems differ by an ending that begins with `_`, `-` or `.` and that all masks (`_mask`, `_gt`, `_L`) or all
    images (`_image`) share, the ending is left out, provided that every file then has exactly one partner.

    Raises:
        DataError: a file has no partner, or two have one stem; names the first of them.
    """
    image_of, mask_of = _by_stem(images, where), _by_stem(masks, where)
    if image_of.keys() != mask_of.keys():
        image_of, mask_of = _without_endings(image_of, mask_of) or (image_of, mask_of)
    _check_complete(image_of, mask_of, where)
    return [(image_of[stem], mask_of[stem]) for stem in sorted(image_of)]


def pair_listed(list_path: Path, images: Sequence[Path], masks: Sequence[Path], *, data_dir: Path) -> list[Pair]:
    """Pair the files that a list names, in its order: a stem or a path a line, or an image's and a mask's path.

    Raises:
        DataError: the list is empty, or names something that is not there.
    """
    try:
        lines = [line.strip() for line in list_path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"list file `{list_path}` cannot be read: {reason}") from None
    if not lines:
        raise DataError(f"list file `{list_path}` is empty: expected one stem or path a line")
    if _are_pairs(lines, images, data_dir):
        first_and_second = (line.split() for line in lines)
        return [(_inside(data_dir, one, list_path), _inside(data_dir, two, list_path)) for one, two in first_and_second]
    wanted = [Path(line) for line in lines]
    stems = [path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name for path in wanted]
    all_images, all_masks = _by_stem(images, str(list_path)), _by_stem(masks, str(list_path))
    if not set(stems) <= all_masks.keys():
        all_images, all_masks = _without_endings(all_images, all_masks) or (all_images, all_masks)
    for kind, files in (("image", all_images), ("mask", all_masks)):
        missing = [stem for stem in stems if stem not in files]
        if missing:
            raise DataError(
                f"`{list_path}` names {_few(missing)}: no {kind} of that name among {len(files)}",
                hint=f"the {kind}s are called {_few(list(files))}" if files else None,
            )
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if repeated:
        raise DataError(f"`{list_path}` names {_few(repeated)} more than once")
    return [(all_images[stem], all_masks[stem]) for stem in stems]


def _are_pairs(lines: Sequence[str], images: Sequence[Path], data_dir: Path) -> bool:
    """Tell lines of an image's and a mask's path from names that hold a space."""
    names = {name for path in images for name in (path.stem, path.name)}
    return all(len(line.split()) == 2 for line in lines) and not all(
        line in names or (data_dir / line).is_file() for line in lines
    )


def _by_stem(paths: Iterable[Path], where: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise DataError(
                f"two files of one stem in {where}: got `{found[path.stem]}` and `{path}`",
                hint="images and masks are matched by stem: rename one, or take it away",
            )
        found[path.stem] = path
    return found


def _without_endings(
    images: Mapping[str, Path], masks: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, Path]] | None:
    """Drop shared endings so that every image gets one mask and every mask one image; None where that cannot be."""
    for image_end, mask_end in product(_endings(images), _endings(masks)):
        cut_images = {stem.removesuffix(image_end): path for stem, path in images.items()}
        cut_masks = {stem.removesuffix(mask_end): path for stem, path in masks.items()}
        if cut_images.keys() == cut_masks.keys() and len(cut_images) == len(images) and len(cut_masks) == len(masks):
            log.info("images `*%s` and masks `*%s` are matched without these endings", image_end, mask_end)
            return cut_images, cut_masks
    return None


def _endings(stems: Iterable[str]) -> list[str]:
    """Every ending that all stems share and that begins with a joint, the empty one first."""
    first, *others = stems
    endings = [first[joint.start() :] for joint in re.finditer(r"[_\-.]", first)]
    return ["", *reversed([ending for ending in endings if all(other.endswith(ending) for other in others)])]


def _check_complete(images: Mapping[str, Path], masks: Mapping[str, Path], where: str) -> None:
    lonely_images = [images[stem].name for stem in sorted(images.keys() - masks.keys())]
    lonely_masks = [masks[stem].name for stem in sorted(masks.keys() - images.keys())]
    if not lonely_images and not lonely_masks:
        return
    parts = (
        [f"{len(lonely_images)} of {len(images)} images have no mask ({_few(lonely_images)})"] if lonely_images else []
    )
    if lonely_masks:
        parts.append(f"{len(lonely_masks)} of {len(masks)} masks have no image ({_few(lonely_masks)})")
    example = next(iter(sorted(images)), "name")
    raise DataError(
        f"{where}: {' and '.join(parts)}",
        hint=f"image `{example}.jpg` needs a mask `{example}.png`; move single files away, or list the stems to use "
        "in a list file (`data.train.stems`)",
    )


def _inside(data_dir: Path, text: str, list_path: Path) -> Path:
    """Find a listed path: in the data folder, or from its end, since lists often hold another machine's folders."""
    parts = Path(text).parts
    for start in range(len(parts)):
        path = data_dir.joinpath(*parts[start:]) if start or not Path(text).is_absolute() else Path(text)
        if path.is_file():
            return path
    raise DataError(f"`{list_path}` names `{text}`: no such file in `{data_dir}`")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
