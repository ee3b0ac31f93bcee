"""Which samples form which batch: known to every process, read by none that does not need them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from hfseg.data.record import Record, read_image_size
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.errors import DataError


@dataclass(frozen=True)
class Key:
    """One sample to read: its number, or its place in a stream together with the record that was read from there."""

    epoch: int
    index: int
    record: Record | None = None

    def rng(self, seed: int) -> np.random.Generator:
        """Give the generator of this sample in this epoch, whoever reads it and when."""
        return np.random.default_rng(np.random.SeedSequence((seed, self.epoch, self.index)))


@dataclass(frozen=True)
class TrainKeys:
    """The batches of one rank, without end, from `start_step` on; what does not fill a global batch is dropped.

    Each epoch is one seeded order of the data set. Global batch number s takes the next `batch_size * world_size`
    samples of it, and rank r the r-th `batch_size` of these.
    """

    dataset: TableDataset | StreamDataset
    batch_size: int
    seed: int
    rank: int
    world_size: int
    start_step: int

    def __iter__(self) -> Iterator[list[Key]]:
        return (
            self._from_stream(self.dataset)
            if isinstance(self.dataset, StreamDataset)
            else self._from_table(self.dataset)
        )

    def steps_per_epoch(self) -> int:
        """Count the global batches of an epoch.

        Raises:
            DataError: the data set is a stream, or has fewer samples than a global batch.
        """
        if isinstance(self.dataset, StreamDataset):
            raise DataError(
                f"`{self.dataset.name}` is streamed: its length is not known, so neither are its epochs",
                hint="give the length of the run in steps, or set data.streaming=false",
            )
        steps = len(self.dataset) // (self.batch_size * self.world_size)
        if steps == 0:
            raise self._too_few(len(self.dataset))
        return steps

    def _from_table(self, dataset: TableDataset) -> Iterator[list[Key]]:
        steps = self.steps_per_epoch()
        order_of, order = -1, np.empty(0, dtype=np.int64)
        for step in count(self.start_step):
            epoch, place = divmod(step, steps)
            if epoch != order_of:
                order_of, order = epoch, _order(len(dataset), seed=self.seed, epoch=epoch)
            start = (place * self.world_size + self.rank) * self.batch_size
            yield [Key(epoch, int(index)) for index in order[start : start + self.batch_size]]

    def _from_stream(self, dataset: StreamDataset) -> Iterator[list[Key]]:
        """Read every record in every process, and keep this rank's; to resume, records are passed over undecoded."""
        step = 0
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for epoch in count():
            before = step
            keys = (Key(epoch, *found) for found in enumerate(dataset.shuffled_records(seed=self.seed, epoch=epoch)))
            for batch in _chunks(keys, self.batch_size * self.world_size):
                if step >= self.start_step:
                    yield batch[mine]
                step += 1
            if step == before:
                raise self._too_few(None)

    def _too_few(self, found: int | None) -> DataError:
        ranks = f" on each of {self.world_size} processes" if self.world_size > 1 else ""
        got = "fewer samples than that" if found is None else f"{found} training samples"
        return DataError(
            f"`{self.dataset.name}` cannot fill one batch of {self.batch_size}{ranks}: got {got}",
            hint="make `loader.batch_size` smaller, or add samples",
        )


@dataclass(frozen=True)
class EvalKeys:
    """Every `world_size`-th batch of a data set, from number `rank` on.

    Batches are formed in the order of the data set before they are dealt out, so that each sample is seen once and no
    batch depends on the number of ranks. A batch holds up to `batch_size` neighbours of one size.
    """

    dataset: TableDataset | StreamDataset
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[Key]]:
        return islice(self._batches(), self.rank, None, self.world_size)

    def _batches(self) -> Iterator[list[Key]]:
        batch: list[Key] = []
        last: tuple[int, int] | None = None
        for key, size in self._sized_keys():
            if batch and (size != last or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append(key)
            last = size
        if batch:
            yield batch

    def _sized_keys(self) -> Iterator[tuple[Key, tuple[int, int]]]:
        if isinstance(self.dataset, TableDataset):
            for index, size in enumerate(self.dataset.image_sizes):
                yield Key(0, index), size
            return
        for index, record in enumerate(self.dataset.records()):
            yield Key(0, index, record), read_image_size(record)


def _order(length: int, *, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence((seed, epoch))).permutation(length)


def _chunks(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    """Cut into lists of `size`; a shorter rest is dropped."""
    running = iter(keys)
    while len(chunk := list(islice(running, size))) == size:
        yield chunk
