"""Which samples form which batch: known to every process, read by none that does not need them."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from jaxtyping import Int64

from hfseg.data.record import Record, read_image_size
from hfseg.data.shard_table import SelectedRows, ShardTable
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.errors import DataError

log = logging.getLogger(__name__)


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
    samples of it, and rank r the r-th `batch_size` of these. Every sample is in an epoch once at most, over all ranks;
    fewer than a global batch of them are left out.

    The order of shards that are streamed is put together so that each rank's samples come from shards of its own, where
    their number is a multiple of that of the ranks; then fewer samples than a global batch and one of each shard are
    left out, in each epoch others.
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
        steps = epoch_steps(self.dataset, self.batch_size, self.world_size)
        if steps == 0:
            raise self._too_few(len(self.dataset))
        return steps

    def _from_table(self, dataset: TableDataset) -> Iterator[list[Key]]:
        steps = self.steps_per_epoch()
        self._tell_shards(dataset)
        order_of, order = -1, np.empty(0, dtype=np.int64)
        for step in count(self.start_step):
            epoch, place = divmod(step, steps)
            if epoch != order_of:
                order_of = epoch
                order = epoch_order(dataset, self.batch_size, self.world_size, seed=self.seed, epoch=epoch)
            start = (place * self.world_size + self.rank) * self.batch_size
            yield [Key(epoch, int(index)) for index in order[start : start + self.batch_size]]

    def _from_stream(self, dataset: StreamDataset) -> Iterator[list[Key]]:
        """Read every record in every process, and keep this rank's; to resume, records are passed over undecoded.

        How many records a part of the stream holds is not known, so that parts dealt out to ranks would end at
        different steps.
        """
        if self.world_size > 1:
            log.info(
                "each of %d processes reads the whole stream `%s`; shards of `hfseg data prepare` are dealt out",
                self.world_size,
                dataset.name,
            )
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

    def _tell_shards(self, dataset: TableDataset) -> None:
        table = streamed_shards(dataset)
        if table is not None and table.num_lanes(self.world_size) != self.world_size:
            log.info(
                "%d shards of `%s` cannot be dealt out evenly to %d processes: each process reads from all of them",
                len(table.shards),
                dataset.name,
                self.world_size,
            )

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
            for index, size in enumerate(_image_sizes(self.dataset)):
                yield Key(0, index), size
            return
        for index, record in enumerate(self.dataset.records()):
            yield Key(0, index, record), read_image_size(record)


def epoch_steps(dataset: TableDataset, batch_size: int, world_size: int) -> int:
    """Count the global batches of an epoch, which are equally many in every epoch."""
    table = streamed_shards(dataset)
    if table is None:
        return len(dataset) // (batch_size * world_size)
    lanes = table.num_lanes(world_size)
    return table.lane_length(lanes) // (batch_size * world_size // lanes)


def epoch_order(
    dataset: TableDataset, batch_size: int, world_size: int, *, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Draw the samples of an epoch, global batch after global batch, and in each of them rank after rank."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    table = streamed_shards(dataset)
    if table is None:
        return rng.permutation(len(dataset))
    lanes = table.lanes(rng, table.num_lanes(world_size))
    steps, share = epoch_steps(dataset, batch_size, world_size), batch_size * world_size // len(lanes)
    return np.stack([lane[: steps * share].reshape(steps, share) for lane in lanes], axis=1).ravel()


def streamed_shards(dataset: TableDataset) -> ShardTable | None:
    """Give the shards of a data set that are to be read one after the other; None for any other."""
    table = dataset.table
    return table if isinstance(table, ShardTable) and table.window is not None else None


def _image_sizes(dataset: TableDataset) -> tuple[tuple[int, int], ...]:
    """Give the sizes that shards have written down, or those in the headers of the images."""
    table = dataset.table
    return table.image_sizes if isinstance(table, ShardTable | SelectedRows) else dataset.image_sizes


def _chunks(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    """Cut into lists of `size`; a shorter rest is dropped."""
    running = iter(keys)
    while len(chunk := list(islice(running, size))) == size:
        yield chunk
