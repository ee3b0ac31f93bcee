"""Batches of a data set, read by worker processes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader

from hfseg.config import Config
from hfseg.data.augment import AugmentConfig
from hfseg.data.reader import Change, EvalReader, Failure, TrainReader
from hfseg.data.sampling import EvalKeys, TrainKeys
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.errors import DataError
from hfseg.values import Batch

Keys = TrainKeys | EvalKeys
Read = Batch | Failure


class EvalLoaderConfig(Config):
    """How images are read to be scored."""

    eval_batch_size: PositiveInt = 4
    """Most samples of an evaluation batch; only neighbours of one size share a batch."""
    workers: NonNegativeInt = 2
    """Worker processes that read and decode; 0 reads in the main process. The run is the same with any number."""


class LoaderConfig(EvalLoaderConfig):
    """How batches are put together and read."""

    batch_size: PositiveInt = 8
    """Training samples of a batch in each process."""


class TrainLoader:
    """Training batches without end; each pass over it begins at the same step."""

    def __init__(self, keys: TrainKeys, batches: "DataLoader[Read]") -> None:
        self._keys = keys
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this process.

        Raises:
            DataError: a sample cannot be read; names its file. The next pass starts at the beginning again.
        """
        return _unwrapped(self._batches)

    @property
    def steps_per_epoch(self) -> int:
        """The number of global batches of an epoch.

        Raises:
            DataError: the data set is a stream, so that nobody knows.
        """
        return self._keys.steps_per_epoch()


class EvalLoader:
    """The evaluation batches of one rank, in the order of the data set."""

    def __init__(self, keys: EvalKeys, batches: "DataLoader[Read]") -> None:
        self._keys = keys
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this process once.

        Raises:
            DataError: a sample cannot be read; names its file.
        """
        return _unwrapped(self._batches)

    @property
    def num_batches(self) -> int | None:
        """The number of batches of this rank; None for a stream."""
        return None if isinstance(self._keys.dataset, StreamDataset) else sum(1 for _ in self._keys)

    @property
    def num_samples(self) -> int | None:
        """The number of samples of this rank; None for a stream."""
        return None if isinstance(self._keys.dataset, StreamDataset) else sum(len(keys) for keys in self._keys)


def train_loader(
    dataset: TableDataset | StreamDataset,
    augment: AugmentConfig,
    config: LoaderConfig,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    pin_memory: bool = False,
) -> TrainLoader:
    """Read augmented batches of bytes, for ever, from step `start_step` on.

    What a sample becomes depends on (seed, epoch, number of the sample) only: not on workers, ranks or the start.
    Where rare classes are asked for, every mask is counted here, once for each data set.

    Raises:
        DataError: the data set has fewer samples than a global batch, or its classes cannot be counted.
    """
    keys = TrainKeys(dataset, config.batch_size, seed, rank, world_size, start_step)
    if isinstance(dataset, TableDataset):
        keys.steps_per_epoch()
    return TrainLoader(keys, _batches(TrainReader(dataset, augment, seed), keys, config.workers, pin_memory))


def eval_loader(
    dataset: TableDataset | StreamDataset,
    config: EvalLoaderConfig,
    *,
    short_side: int | None = None,
    change: Change | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> EvalLoader:
    """Read whole images at `short_side` with labels at their own size, each sample on exactly one rank.

    `change` alters the pixels of each image before it is resized, as a function of the image and its id.

    Raises:
        DataError: the header of an image cannot be read; names the file.
    """
    keys = EvalKeys(dataset, config.eval_batch_size, rank, world_size)
    return EvalLoader(keys, _batches(EvalReader(dataset, short_side, change), keys, config.workers, pin_memory))


def _batches(reader: TrainReader | EvalReader, keys: Keys, workers: int, pin_memory: bool) -> "DataLoader[Read]":
    """Hand the keys to workers that live as long as the pass, which for training is the run.

    Torch's global generator is left alone.
    """
    return DataLoader(
        reader,
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )


def _unchanged(read: Any) -> Any:
    return read


def _unwrapped(batches: Iterable[Read]) -> Iterator[Batch]:
    for read in batches:
        if isinstance(read, Failure):
            raise DataError(read.message, read.hint)  # a new one: its traceback must not lead back to itself
        yield read
