"""A data set that knows its length: rows of undecoded images and masks in a `datasets.Dataset`."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from hfseg.data.record import Record, count_labels, read_image_size, read_sample
from hfseg.data.threads import in_order
from hfseg.errors import ConfigError, DataError
from hfseg.labels import LabelSpace
from hfseg.values import Clip, Sample

Split = Literal["train", "validation", "test"]
History = Callable[[Sequence[str], int], list[list[str]]]
"""(ids, number of frames) -> for each sample the paths of that many frames before it, the oldest first."""


@runtime_checkable
class Dataset(Protocol):
    """What every data set offers: a length, samples by number, a label space and a name."""

    labels: LabelSpace
    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample | Clip: ...


class TableDataset:
    """Samples of a table with the columns `image`, `label` and `id`, decoded when they are asked for.

    `table` is a `datasets.Dataset` whose image columns are cast to `Image(decode=False)`. With `rare_class_crop`,
    training crops are placed around pixels of rare classes. `history` finds the frames before a sample, where the data
    set knows them; the samples of a clip data set have the paths of `memory_frames` of them in a column `before`.
    """

    def __init__(
        self,
        table: Any,
        labels: LabelSpace,
        *,
        name: str,
        rare_class_crop: bool = False,
        history: History | None = None,
        memory_frames: int = 0,
    ) -> None:
        self.table = table
        self.labels = labels
        self.name = name
        self.rare_class_crop = rare_class_crop
        self.history = history
        self.memory_frames = memory_frames

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample | Clip:
        """Decode one sample.

        Raises:
            DataError: image or mask is broken, of another size than its pair, or holds an unknown value.
        """
        return read_sample(self.record(index), self.labels)

    def record(self, index: int) -> Record:
        """Give one sample undecoded."""
        row = self.table[index]
        before = tuple({"path": path} for path in row["before"]) if self.memory_frames else ()
        return Record(row["image"], row["label"], row["id"], before)

    def select(self, indices: Sequence[int]) -> "TableDataset":
        """Keep the samples with these numbers, in this order."""
        return self._with(self.table.select(list(indices)), self.memory_frames)

    def clips(self, memory_frames: int) -> "TableDataset":
        """Give every sample `memory_frames` frames before it, or make none of them a clip where that is 0.

        Raises:
            ConfigError: the data set does not know which frames come before a sample.
            DataError: it does, and they are not where they should be.
        """
        images = self.table.remove_columns("before") if self.memory_frames else self.table
        if memory_frames == 0:
            return self._with(images, 0)
        if self.history is None:
            raise no_frames_before(self.name, memory_frames)
        before = self.history(self.table["id"], memory_frames)
        return self._with(images.add_column("before", before), memory_frames)

    def _with(self, table: Any, memory_frames: int) -> "TableDataset":
        return TableDataset(
            table,
            self.labels,
            name=self.name,
            rare_class_crop=self.rare_class_crop,
            history=self.history,
            memory_frames=memory_frames,
        )

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


def no_frames_before(name: str, memory_frames: int) -> ConfigError:
    """Make the error of a data set that holds single images, where a model wants frames before each of them."""
    return ConfigError(
        f"`{name}` does not say which frames come before an image: the model is to be shown {memory_frames}",
        hint="show it single images, by model.memory_frames=0 in training and memory_frames=0 in evaluation; or take "
        "data that knows its sequences: --dataset frames, camvid, or cityscapes with leftImg8bit_sequence",
    )


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
