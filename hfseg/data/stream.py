"""A data set that is read as it comes, without being downloaded first; its length is not known."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hfseg.data.record import Record
from hfseg.data.source import source_stem
from hfseg.data.table import Split, no_frames_before
from hfseg.labels import LabelSpace


@dataclass(frozen=True)
class StreamDataset:
    """Records of a `datasets.IterableDataset` with the columns `image` and `label`, in the order in which they come."""

    stream: Any
    labels: LabelSpace
    name: str
    split: Split
    shuffle_buffer: int
    """Records from which the next one is drawn, when the order is shuffled."""

    def records(self) -> Iterator[Record]:
        """Read the stream once, in its own order."""
        return self._numbered(self.stream, self.split)

    def shuffled_records(self, *, seed: int, epoch: int) -> Iterator[Record]:
        """Read the stream once, in an order that depends on the seed and the epoch only."""
        stream = self.stream.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        stream.set_epoch(epoch)
        return self._numbered(stream, f"{self.split}-{epoch}")

    def clips(self, memory_frames: int) -> "StreamDataset":
        """Give the data set itself where no frames are wanted before a sample: a stream does not know any.

        Raises:
            ConfigError: some are wanted.
        """
        if memory_frames:
            raise no_frames_before(self.name, memory_frames)
        return self

    def _numbered(self, stream: Any, prefix: str) -> Iterator[Record]:
        for number, row in enumerate(stream):
            yield Record(row["image"], row["label"], source_stem(row["image"]) or f"{prefix}-{number:06d}")
