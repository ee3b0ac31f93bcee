"""Looking at a whole data set before any training step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
from jaxtyping import Integer

from hfseg.data.decode import count_values, open_mask, open_picture
from hfseg.data.record import Record, check_frame_size, check_sizes, count_labels, read_image_size
from hfseg.data.source import read_bytes
from hfseg.data.table import TableDataset
from hfseg.data.threads import in_order
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

SHOWN = 8
"""Problems that are written out; the others are counted."""
Size = tuple[int, int]
Progress = Callable[[int, int], None]
"""Is called with the samples done and their number."""


@dataclass(frozen=True)
class Verification:
    """What a data set that passed holds."""

    num_images: int
    pixels: tuple[int, ...]
    """Labelled pixels of each class."""
    ignored_pixels: int


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a sample from being used."""

    kind: Literal["sample", "image", "mask", "mode", "value", "size"]
    """A sample, image or mask cannot be read; a mask is of the wrong mode or holds values that are no class; sizes of
    image and mask differ."""
    index: int
    """The number of the sample."""
    file: str
    message: str
    hint: str | None = None
    values: Mapping[str, int] = field(default_factory=dict)
    """Raw values, or colours, that stand for no class -> their pixels."""


@dataclass(frozen=True)
class Findings:
    """What every mask and the header of every image of a data set say; of samples with problems, what could be read."""

    num_images: int
    problems: tuple[Problem, ...]
    counts: Integer[np.ndarray, "n k"]
    """Pixels of each class in each image."""
    ignored: Integer[np.ndarray, " n"]
    """Ignored pixels of each image."""
    image_sizes: tuple[Size | None, ...]
    """Height and width."""
    mask_modes: tuple[str | None, ...]
    """Modes of the mask files as Pillow names them."""

    @cached_property
    def usable(self) -> tuple[int, ...]:
        """The numbers of the samples without a problem."""
        broken = {problem.index for problem in self.problems}
        return tuple(index for index in range(self.num_images) if index not in broken)


@dataclass(frozen=True)
class _Look:
    problems: tuple[Problem, ...]
    size: Size | None = None
    mode: str | None = None
    counts: Mapping[int, int] = field(default_factory=dict)


def verify(dataset: TableDataset, *, workers: int, progress: Progress | None = None) -> Verification:
    """Read every mask and the header of every image, with `workers` threads beside this one.

    Raises:
        DataError: some samples cannot be used; names the first of them with values and counts, and their number.
    """
    found = inspect(dataset, workers=workers, progress=progress)
    if found.problems:
        raise _together(dataset.name, found)
    return Verification(found.num_images, tuple(found.counts.sum(0).tolist()), int(found.ignored.sum()))


def inspect(dataset: TableDataset, *, workers: int, progress: Progress | None = None) -> Findings:
    """Read every mask and the headers of all images and frames, with `workers` threads beside this one; tell all."""
    total, space = len(dataset), dataset.labels
    counts, ignored = np.zeros((total, space.num_labels), dtype=np.int64), np.zeros(total, dtype=np.int64)
    looks = []
    for index, look in enumerate(in_order(partial(_look, dataset), total, workers=workers)):
        pixels = dict(look.counts)
        ignored[index] = pixels.pop(space.ignore_index, 0)
        counts[index, list(pixels)] = list(pixels.values())
        looks.append(replace(look, counts={}))
        if progress is not None:
            progress(index + 1, total)
    problems = tuple(problem for look in looks for problem in look.problems)
    sizes, modes = tuple(look.size for look in looks), tuple(look.mode for look in looks)
    return Findings(total, problems, counts, ignored, sizes, modes)


def _look(dataset: TableDataset, index: int) -> _Look:
    """Look at mask and image each for itself, so that one broken file does not hide the other."""
    try:
        record = dataset.record(index)
    except DataError as error:
        return _Look((Problem("sample", index, dataset.name, error.message, error.hint),))
    problems: list[Problem] = []
    mask = size = mode = None
    counts: dict[int, int] = {}
    try:
        mask, mode, counts = _count(record, dataset.labels)
    except DataError as error:
        kind, values = _what_is_wrong(record, dataset.labels)
        problems.append(Problem(kind, index, record.label_name, error.message, error.hint, values))
    try:
        size = read_image_size(record)
    except DataError as error:
        problems.append(Problem("image", index, record.image_name, error.message, error.hint))
    problems += _frame_problems(record, index, size)
    try:
        if mask is not None and size is not None:
            check_sizes(record, image=size, mask=mask)
    except DataError as error:
        problems.append(Problem("size", index, record.label_name, error.message, error.hint))
    return _Look(tuple(problems), size, mode, {} if problems else counts)


def _frame_problems(record: Record, index: int, size: Size | None) -> Iterator[Problem]:
    """Read the headers of the frames before an image of `size`, each file once."""
    for name, frame in {frame.image_name: frame for frame in record.frames[:-1]}.items():
        try:
            found = read_image_size(frame)
            check_frame_size(frame, found, of=record, size=size or found)
        except DataError as error:
            yield Problem("image", index, name, error.message, error.hint)


def _count(record: Record, space: LabelSpace) -> tuple[Size, str, dict[int, int]]:
    """Give the size of the mask, its mode, and the pixels of each train id; the file is read once."""
    if isinstance(record.label, list):
        size, counts = count_labels(record, space)
        return size, "rows of numbers", counts
    data = read_bytes(record.label, name=record.label_name)
    mode = open_picture(data, name=record.label_name).file.mode
    size, counts = count_labels(replace(record, label={**record.label, "bytes": data}), space)
    return size, mode, counts


def _what_is_wrong(record: Record, space: LabelSpace) -> tuple[Literal["mask", "mode", "value"], dict[str, int]]:
    """Tell why a mask was refused, with all raw values that are no class: what the message has no room for."""
    colored = space.colors is not None
    try:
        if isinstance(record.label, list):
            return "value", {}
        mask = open_mask(read_bytes(record.label, name=record.label_name), name=record.label_name, colored=colored)
    except DataError:
        return "mask", {}
    if (mask.mode == "RGB") != colored:
        return "mode", {}
    if space.colors is None:
        found = count_values(mask)
        return "value", {str(value): count for value, count in found.items() if value not in space.table}
    colors = mask.getcolors(mask.width * mask.height) or []
    return "value", {str(color): count for count, color in colors if color not in space.colors}


def _together(name: str, found: Findings) -> DataError:
    """Make one error of many."""
    problems = found.problems
    hint = "; ".join(list(dict.fromkeys(problem.hint for problem in problems if problem.hint))[:3]) or None
    if len(problems) == 1:
        return DataError(problems[0].message, hint)
    messages = list(dict.fromkeys(problem.message for problem in problems))  # a frame may be in several clips
    lines = messages[:SHOWN]
    rest = [f"and {len(messages) - SHOWN} more"] if len(messages) > SHOWN else []
    head = f"{found.num_images - len(found.usable)} of {found.num_images} samples of `{name}` cannot be used"
    return DataError("\n  ".join([head, *lines, *rest]), hint)
