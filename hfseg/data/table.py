"""A data set that knows its length: rows of undecoded images and masks in a `datasets.Dataset`."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from hfseg.data.record import Record, count_labels, read_image_size, read_sample
from hfseg.data.threads import in_order
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.values import Sample

Split = Literal["train", "validation", "test"]


@runtime_checkable
class Dataset(Protocol):
    """What every data set offers: a length, samples by number, a label space and a name."""

    labels: LabelSpace
    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class TableDataset:
    """Samples of a table with the columns `image`, `label` and `id`, decoded when they are asked for.

    `table` is a `datasets.Dataset` whose image columns are cast to `Image(decode=False)`. With `rare_class_crop`,
    training crops are placed around pixels of rare classes.
    """

    def __init__(self, table: Any, labels: LabelSpace, *, name: str, rare_class_crop: bool = False) -> None:
        self.table = table
        self.labels = labels
        self.name = name
        self.rare_class_crop = rare_class_crop

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample.

        Raises:
            DataError: image or mask is broken, of another size than its pair, or holds an unknown value.
        """
        return read_sample(self.record(index), self.labels)

    def record(self, index: int) -> Record:
        """Give one sample undecoded."""
        row = self.table[index]
        return Record(row["image"], row["label"], row["id"])

    def select(self, indices: Sequence[int]) -> "TableDataset":
        """Keep the samples with these numbers, in this order."""
        table = self.table.select(list(indices))
        return TableDataset(table, self.labels, name=self.name, rare_class_crop=self.rare_class_crop)

    @cached_property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every image, read from the headers once."""
        return tuple(read_image_size(self.record(index)) for index in range(len(self)))

    @cached_property
    def class_counts(self) -> Integer[np.ndarray, "n k"]:
        """Pixels of each class in each image, from reading every mask once.

        Raises:
            DataError: a mask is broken or holds an unknown value; names the file.
        """
        counts = np.zeros((len(self), self.labels.num_labels), dtype=np.int32)
        found = in_order(
            lambda index: count_labels(self.record(index), self.labels)[1], len(self), workers=os.cpu_count() or 1
        )
        for row, pixels in zip(counts, found, strict=True):
            pixels.pop(self.labels.ignore_index, None)
            row[list(pixels)] = list(pixels.values())
        return counts


def table_of(pairs: Iterable[tuple[str | Path, str | Path]]) -> Any:
    """Make a table of image and mask paths (files or `zip://member::archive`); ids are the stems of the images."""
    import datasets

    rows = [(str(image), str(label)) for image, label in pairs]
    columns = {
        "image": [image for image, _ in rows],
        "label": [label for _, label in rows],
        "id": [Path(image.split("::", 1)[0]).stem for image, _ in rows],
    }
    undecoded = datasets.Image(decode=False)
    features = datasets.Features(image=undecoded, label=undecoded, id=datasets.Value("string"))
    return datasets.Dataset.from_dict(columns, features=features)


def seeded_split(
    count: int, *, fraction: float, seed: int, part: Literal["train", "validation"], name: str
) -> list[int]:
    """Choose the samples of one part of a set that has no validation part, in ascending order.

    Raises:
        DataError: there are too few samples for two parts.
    """
    if count < 2:
        raise DataError(
            f"`{name}` has {count} training sample and no validation part: expected 2 or more",
            hint="add samples, or give a validation part",
        )
    held_out = min(count - 1, max(1, round(count * fraction)))
    order = np.random.default_rng(np.random.SeedSequence((seed, count))).permutation(count)
    return sorted(int(i) for i in (order[:held_out] if part == "validation" else order[held_out:]))
