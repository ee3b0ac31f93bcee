"""Batches of a data set, read by worker processes."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch.utils.data import DataLoader

from hfseg.config import Config
from hfseg.data.augment import AugmentConfig
from hfseg.data.reader import Change, EvalReader, Failure, Mended, TrainReader
from hfseg.data.sampling import EvalKeys, TrainKeys
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.data.workers import heed_parent_only, read_by_workers
from hfseg.errors import DataError
from hfseg.values import Batch

Keys = TrainKeys | EvalKeys
Read = Batch | Failure | Mended

log = logging.getLogger(__name__)


class EvalLoaderConfig(Config):
    """How images are read to be scored."""

    eval_batch_size: PositiveInt = 4
    """Most samples of an evaluation batch; only neighbours of one size share a batch."""
    workers: NonNegativeInt = 2
    """Worker processes that read and decode; 0 reads in the main process. The run is the same with any number."""
    timeout_s: PositiveFloat = 300.0
    """Seconds after which workers that give no batch end the run; without workers nothing is waited for."""


class LoaderConfig(EvalLoaderConfig):
    """How batches are put together and read."""

    batch_size: PositiveInt = 8
    """Training samples of a batch in each process."""
    on_error: Literal["error", "skip"] = "error"
    """What a training sample that cannot be read does: end the run, or be left out, named and counted, while the next
    one in the data set stands in for it. Validation always ends."""


class Skips:
    """What could not be read and was left out: named once each when it is met, and counted."""

    def __init__(self) -> None:
        self._met: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    def add(self, problem: str) -> None:
        """Note one problem, in the words that name its file."""
        if problem not in self._met:
            log.warning("left out: %s", problem)
        self._met[problem] += 1

    def take(self) -> dict[str, int]:
        """Give the problems since the last time, and how often each came up."""
        fresh = self._met - self._taken
        self._taken = self._met.copy()
        return dict(fresh)


class TrainLoader:
    """Training batches without end; each pass over it begins at the same step."""

    def __init__(self, keys: TrainKeys, batches: "DataLoader[Read]", skips: Skips, timeout_s: float) -> None:
        self._keys = keys
        self._batches = batches
        self._skips = skips
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this process.

        Raises:
            DataError: a sample cannot be read; names its file. The next pass starts at the beginning again.
            RunFailed: a worker died, or gave no batch in time.
        """
        return _unwrapped(self._batches, self._skips, self._timeout_s)

    @property
    def steps_per_epoch(self) -> int:
        """The number of global batches of an epoch.

        Raises:
            DataError: the data set is a stream, so that nobody knows.
        """
        return self._keys.steps_per_epoch()


class EvalLoader:
    """The evaluation batches of one rank, in the order of the data set."""

    def __init__(self, keys: EvalKeys, batches: "DataLoader[Read]", timeout_s: float) -> None:
        self._keys = keys
        self._batches = batches
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this process once.

        Raises:
            DataError: a sample cannot be read; names its file.
            RunFailed: a worker died, or gave no batch in time.
        """
        return _unwrapped(self._batches, Skips(), self._timeout_s)

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
    skips: Skips | None = None,
) -> TrainLoader:
    """Read augmented batches of bytes, for ever, from step `start_step` on.

    What a sample becomes depends on (seed, epoch, number of the sample) only: not on workers, ranks or the start.
    `skips` is told of samples that are left out, where `config.on_error` says so.
    Where rare classes are asked for, every mask is counted here, once for each data set.

    Raises:
        DataError: the data set has fewer samples than a global batch, or its classes cannot be counted.
    """
    keys = TrainKeys(dataset, config.batch_size, seed, rank, world_size, start_step)
    if isinstance(dataset, TableDataset):
        keys.steps_per_epoch()
    reader = TrainReader(dataset, augment, seed, skips_broken=config.on_error == "skip")
    return TrainLoader(keys, _batches(reader, keys, config, pin_memory), skips or Skips(), config.timeout_s)


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
    reader = EvalReader(dataset, short_side, change)
    return EvalLoader(keys, _batches(reader, keys, config, pin_memory), config.timeout_s)


def _batches(
    reader: TrainReader | EvalReader, keys: Keys, config: EvalLoaderConfig, pin_memory: bool
) -> "DataLoader[Read]":
    """Hand the keys to workers that live as long as the pass, which for training is the run.

    Torch's global generator is left alone.
    """
    return DataLoader(
        reader,
        batch_size=None,
        sampler=keys,
        collate_fn=_unchanged,
        num_workers=config.workers,
        worker_init_fn=heed_parent_only,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )


def _unchanged(read: Any) -> Any:
    return read


def _unwrapped(batches: Iterable[Read], skips: Skips, timeout_s: float) -> Iterator[Batch]:
    for read in read_by_workers(batches, timeout_s=timeout_s):
        if isinstance(read, Failure):
            raise DataError(read.message, read.hint)  # a new one: its traceback must not lead back to itself
        if isinstance(read, Mended):
            for problem in read.problems:
                skips.add(problem)
        yield read.batch if isinstance(read, Mended) else read
