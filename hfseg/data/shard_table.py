"""Rows of Parquet shards by their number, read where they lie; no second copy is made.

Shards are written in small row groups, so that a row is one read of about half a megabyte (0.4 ms measured, of some 10
that decoding takes). Every page that is read is checked against its checksum.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from hfseg.data.manifest import Shard, sha256_of_file
from hfseg.errors import DataError

COLUMNS, SIZES = ["image", "label", "id"], ["height", "width"]
OPEN_SHARDS, KEPT_GROUPS = 32, 4
"""What each process holds on to: footers of shards, and row groups, whose neighbouring rows are often wanted next."""
COPY_AGAIN = "copy the shard again from where it was prepared"


class ShardTable:
    """Rows of some shards, in their order, as a `datasets.Dataset` of undecoded images gives them.

    With `window`, an epoch's order is such that each shard is read from its beginning to its end (see `lanes`).
    """

    def __init__(self, data_dir: Path, shards: Sequence[Shard], *, window: int | None = None) -> None:
        self.data_dir = data_dir
        self.shards = tuple(shards)
        self.window = window
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one row.

        Raises:
            DataError: its shard cannot be read, or has changed since it was written; names the shard.
        """
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self.shards[number]
        with _told(self.data_dir / shard.file):
            return _read_row(self.data_dir, shard, index - int(self._starts[number]))

    def select(self, indices: Sequence[int]) -> "SelectedRows":
        """Keep the rows with these numbers, in this order."""
        return SelectedRows(self, np.asarray(indices, dtype=np.int64))

    @cached_property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every image, from columns of their own: no image is read.

        Raises:
            DataError: a shard cannot be read; names it.
        """
        sizes: list[tuple[int, int]] = []
        for shard in self.shards:
            with _told(self.data_dir / shard.file):
                found = _opened(self.data_dir, shard, threading.get_ident()).file.read(SIZES, use_threads=False)
            sizes.extend(zip(*(found.column(name).to_pylist() for name in SIZES), strict=True))
        return tuple(sizes)

    def num_lanes(self, world_size: int) -> int:
        """Give the number of shares that an epoch is read in: one for each process, or one for all."""
        return world_size if self.window is not None and len(self.shards) % world_size == 0 else 1

    def lane_length(self, num_lanes: int) -> int:
        """Count the rows that every lane has in every epoch, whichever shards it is dealt."""
        return sum(sorted(shard.rows for shard in self.shards)[: len(self.shards) // num_lanes])

    def lanes(self, rng: np.random.Generator, num_lanes: int) -> list[Int64[np.ndarray, " n"]]:
        """Draw the rows of an epoch: shards in random order, dealt out to the lanes, each lane's rows mixed in windows.

        Each shard is in one lane, and each row in all lanes together once.
        """
        assert self.window is not None
        order = rng.permutation(len(self.shards))
        return [self._lane(rng, order[lane::num_lanes]) for lane in range(num_lanes)]

    def _lane(self, rng: np.random.Generator, shards: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " n"]:
        assert self.window is not None
        rows = np.concatenate([np.arange(self._starts[number], self._starts[number + 1]) for number in shards])
        for start in range(0, len(rows), self.window):
            rng.shuffle(rows[start : start + self.window])
        return rows


class SelectedRows:
    """Some rows of a table of shards."""

    def __init__(self, table: ShardTable, indices: Int64[np.ndarray, " n"]) -> None:
        self._table = table
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._table[int(self._indices[index])]

    def select(self, indices: Sequence[int]) -> "SelectedRows":
        """Keep the rows with these numbers, in this order."""
        return SelectedRows(self._table, self._indices[np.asarray(indices, dtype=np.int64)])

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every image; no image is read."""
        return tuple(self._table.image_sizes[index] for index in self._indices)


def close_shards() -> None:
    """Let go of the shards that this process has open, so that the room of deleted ones is free."""
    _row_group.cache_clear()
    _opened.cache_clear()


def check_files(table: ShardTable) -> None:
    """See that every shard is there in its size; nothing is read.

    Raises:
        DataError: a shard is missing or cut off; names it.
    """
    for shard in table.shards:
        path = table.data_dir / shard.file
        if not path.is_file():
            raise DataError(f"shard `{path}` is missing", hint=COPY_AGAIN)
        if path.stat().st_size != shard.bytes:
            got = path.stat().st_size
            raise DataError(f"shard `{path}` has {got:,} bytes: expected {shard.bytes:,}", hint=COPY_AGAIN)


def check_checksums(table: ShardTable, *, workers: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Read every shard as a whole and compare its checksum, with `workers` threads beside this one.

    Takes about a second for each gigabyte and thread, or what the disk gives. `progress` is called with the shards done
    and their number.

    Raises:
        DataError: shards are not as they were written; names them.
    """
    changed = []
    paths = [table.data_dir / shard.file for shard in table.shards]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (shard, found) in enumerate(zip(table.shards, pool.map(_checksum, paths), strict=True), start=1):
            if found != shard.sha256:
                changed.append(shard.file)
            if progress is not None:
                progress(done, len(paths))
    if changed:
        listed = ", ".join(f"`{file}`" for file in changed)
        message = f"{len(changed)} of {len(paths)} shards in `{table.data_dir}` are not as they were written: {listed}"
        raise DataError(message, hint=COPY_AGAIN)


class _Open(NamedTuple):
    file: Any
    """A `pyarrow.parquet.ParquetFile`."""
    starts: Int64[np.ndarray, " n"]
    """The first row of each row group, and the number of rows."""


def _read_row(data_dir: Path, shard: Shard, row: int) -> dict[str, Any]:
    starts = _opened(data_dir, shard, threading.get_ident()).starts
    group = int(np.searchsorted(starts, row, side="right")) - 1
    found: dict[str, Any] = _row_group(data_dir, shard, group).slice(row - int(starts[group]), 1).to_pylist()[0]
    return found


@lru_cache(maxsize=KEPT_GROUPS)
def _row_group(data_dir: Path, shard: Shard, group: int) -> Any:
    file = _opened(data_dir, shard, threading.get_ident()).file
    return file.read_row_group(group, columns=COLUMNS, use_threads=False)


@lru_cache(maxsize=OPEN_SHARDS)
def _opened(data_dir: Path, shard: Shard, thread: int) -> _Open:
    """Keep a shard open in each thread; processes may share it, since reading has no position that they would share."""
    from pyarrow import parquet

    file = parquet.ParquetFile(data_dir / shard.file, page_checksum_verification=True)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return _Open(file, np.cumsum([0, *sizes]))


def _checksum(path: Path) -> str:
    with _told(path):
        return sha256_of_file(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a broken shard raises into an error that names it."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors of content are both
        reason = " ".join(str(error).split())
        raise DataError(f"shard `{path}` cannot be read: {reason}", hint=COPY_AGAIN) from None
