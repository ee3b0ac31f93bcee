"""Looking at a whole data set before any training step."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from hfseg.data.record import check_sizes, count_labels, read_image_size
from hfseg.data.table import TableDataset
from hfseg.errors import DataError

SHOWN = 8
"""Problems that are written out; the others are counted."""


@dataclass(frozen=True)
class Verification:
    """What a data set that passed holds."""

    num_images: int
    pixels: tuple[int, ...]
    """Labelled pixels of each class."""
    ignored_pixels: int


@dataclass(frozen=True)
class _Found:
    counts: dict[int, int]
    problem: DataError | None = None


def verify(dataset: TableDataset, *, workers: int, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read every mask and the header of every image, with `workers` threads beside this one.

    `progress` is called with the samples done and their number.

    Raises:
        DataError: some samples cannot be used; names the first of them with values and counts, and their number.
    """
    total = len(dataset)
    counts: dict[int, int] = {}
    problems: list[DataError] = []
    for done, found in enumerate(_looked_at(dataset, workers), start=1):
        for label, count in found.counts.items():
            counts[label] = counts.get(label, 0) + count
        if found.problem is not None:
            problems.append(found.problem)
        if progress is not None:
            progress(done, total)
    if problems:
        raise _together(dataset.name, total, problems)
    ignored = counts.pop(dataset.labels.ignore_index, 0)
    return Verification(total, tuple(counts.get(i, 0) for i in range(dataset.labels.num_labels)), ignored)


def _looked_at(dataset: TableDataset, workers: int) -> Iterator[_Found]:
    if workers == 0:
        yield from (_look(dataset, index) for index in range(len(dataset)))
        return
    with ThreadPoolExecutor(workers) as pool:  # Pillow decodes without holding the interpreter
        yield from pool.map(lambda index: _look(dataset, index), range(len(dataset)))


def _look(dataset: TableDataset, index: int) -> _Found:
    try:
        record = dataset.record(index)
        size, counts = count_labels(record, dataset.labels)
        check_sizes(record, image=read_image_size(record), mask=size)
    except DataError as error:
        return _Found({}, error)
    return _Found(counts)


def _together(name: str, total: int, problems: list[DataError]) -> DataError:
    """Make one error of many."""
    hints = list(dict.fromkeys(problem.hint for problem in problems if problem.hint))
    hint = "; ".join(hints[:3]) or None
    if len(problems) == 1:
        return DataError(problems[0].message, hint)
    lines = [problem.message for problem in islice(problems, SHOWN)]
    rest = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    head = f"{len(problems)} of {total} samples of `{name}` cannot be used"
    return DataError("\n  ".join([head, *lines, *rest]), hint)
