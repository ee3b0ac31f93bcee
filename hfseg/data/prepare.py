"""Writing any data set as Parquet shards that `datasets` streams and that processes can share out.

What is written has been checked as `hfseg check` does: every mask was decoded, every size compared.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hfseg.data.manifest import LABELS, MANIFEST, Manifest, Shard, labels_text, sha256_of_text
from hfseg.data.packing import Row, checked_row, in_memory, num_bytes, write_shard
from hfseg.data.record import Record
from hfseg.data.shard_table import ShardTable, close_shards
from hfseg.data.stream import StreamDataset
from hfseg.data.table import Split, TableDataset
from hfseg.errors import DataError
from hfseg.files import sync
from hfseg.labels import LabelSpace

_WEIGHED = 64
"""Samples that are read to estimate the bytes of all."""
AnyDataset = TableDataset | StreamDataset
Progress = Callable[[int, int | None], None]
"""Told the samples done, and of how many; None where a part is a stream."""
Read = Callable[[Iterable[Record], LabelSpace], Iterator[Row]]


@dataclass(frozen=True)
class Layout:
    """How the samples of a part are laid out in shards."""

    shard_mb: int = 256
    """Size of a shard that is aimed at, in 10^6 bytes."""
    min_shards: int = 1
    """The number of shards is a multiple of this, unless there are fewer samples."""
    shuffle_seed: int | None = None
    """Write the samples in a seeded order; in that of the data set where it is not given."""

    def num_shards(self, length: int, size: int) -> int:
        """Choose the number of shards for so many samples and bytes."""
        wanted = max(1, round(size / (self.shard_mb * 1e6)))
        return min(length, -(-wanted // self.min_shards) * self.min_shards)

    def order(self, length: int) -> list[int]:
        """Give the numbers of the samples in the order in which they are written."""
        if self.shuffle_seed is None:
            return list(range(length))
        rng = np.random.default_rng(np.random.SeedSequence((self.shuffle_seed, length)))
        return [int(index) for index in rng.permutation(length)]


def prepare(
    parts: Mapping[Split, AnyDataset],
    output: Path,
    *,
    source: Mapping[str, Any],
    layout: Layout = Layout(),
    workers: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Write parts of one data set into the new folder `output`, which appears once it is complete.

    Until then everything lies in the hidden folder `.NAME.new` beside it. Shards of a part are equal to within one row.
    Memory does not grow with the images: `workers` threads read and check a few of them ahead. A stream is first
    written to one file, since its length is not known. `source` are the settings that the manifest will name.

    Raises:
        DataError: the output is not empty or cannot be written, a part is empty, or a sample cannot be used; names its
            file. Nothing is left then.
    """
    space = next(iter(parts.values())).labels
    if any(dataset.labels != space for dataset in parts.values()):
        raise ValueError("parts of one data set must have the same classes")
    fresh = _new_folder(output.absolute())
    read = _reading(workers, parts.values(), progress)
    try:
        shards = {split: _write_part(fresh, split, dataset, layout, read) for split, dataset in parts.items()}
        labels = labels_text(space)
        manifest = Manifest(source=dict(source), labels_sha256=sha256_of_text(labels), parts=shards)
        _write_text(fresh / LABELS, labels)
        _write_text(fresh / MANIFEST, manifest.model_dump_json(indent=2))
        _put(fresh, output.absolute())
    except OSError as error:
        raise DataError(f"`{output}` cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return manifest


def _new_folder(output: Path) -> Path:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"output `{output}` exists already", hint="give another --output; nothing is overwritten")
    fresh = output.with_name(f".{output.name}.new")
    try:
        fresh.mkdir(parents=True)
    except FileExistsError:
        hint = "delete it, unless another `hfseg data prepare` is writing there now"
        raise DataError(f"`{fresh}` is left from a preparation that was stopped", hint=hint) from None
    except OSError as error:
        raise DataError(f"`{output}` cannot be written: {error.strerror}") from None
    return fresh


def _put(fresh: Path, output: Path) -> None:
    """Put the folder in its place in one rename."""
    sync(fresh)
    if output.exists():
        output.rmdir()
    fresh.rename(output)
    sync(output.parent)


def _reading(workers: int, datasets: Iterable[AnyDataset], progress: Progress | None) -> Read:
    """Make the function that reads and checks records, and tells how many are done in all parts together."""
    lengths = [len(dataset) if isinstance(dataset, TableDataset) else None for dataset in datasets]
    known = [length for length in lengths if length is not None]
    total = sum(known) if len(known) == len(lengths) else None
    done = count(1)

    def read(records: Iterable[Record], space: LabelSpace) -> Iterator[Row]:
        for row in _ahead(lambda record: checked_row(record, space), records, workers):
            if progress is not None:
                progress(next(done), total)
            yield row

    return read


def _write_part(folder: Path, split: Split, dataset: AnyDataset, layout: Layout, read: Read) -> tuple[Shard, ...]:
    if isinstance(dataset, StreamDataset):
        return _write_stream(folder, split, read(dataset.records(), dataset.labels), layout)
    length = len(dataset)
    if length == 0:
        raise _empty(split)
    records = (dataset.record(index) for index in layout.order(length))
    number = layout.num_shards(length, _estimated_bytes(dataset))
    return _write_shards(folder, split, read(records, dataset.labels), length, number)


def _write_stream(folder: Path, split: Split, rows: Iterator[Row], layout: Layout) -> tuple[Shard, ...]:
    """Write the rows of a stream to one file, then deal them out."""
    first = next(rows, None)
    if first is None:
        raise _empty(split)
    spool = write_shard(folder / "spool.parquet", chain([first], rows))
    table = ShardTable(folder, [spool]).select(layout.order(spool.rows))
    stored = (
        {**table[index], "height": height, "width": width} for index, (height, width) in enumerate(table.image_sizes)
    )
    shards = _write_shards(folder, split, stored, spool.rows, layout.num_shards(spool.rows, spool.bytes))
    close_shards()
    (folder / spool.file).unlink()
    return shards


def _write_shards(folder: Path, split: Split, rows: Iterator[Row], length: int, number: int) -> tuple[Shard, ...]:
    edges = [length * index // number for index in range(number + 1)]
    return tuple(
        write_shard(folder / f"{split}-{index:05d}-of-{number:05d}.parquet", islice(rows, end - start))
        for index, (start, end) in enumerate(pairwise(edges))
    )


def _estimated_bytes(dataset: TableDataset) -> int:
    """Estimate the bytes of all samples from some of them."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(_WEIGHED, len(dataset))).round().astype(int)).tolist()
    records = (in_memory(dataset.record(index)) for index in chosen)
    sizes = [num_bytes({"image": record.image, "label": record.label}) for record in records]
    return len(dataset) * sum(sizes) // len(sizes)


def _ahead(function: Callable[[Record], Row], records: Iterable[Record], workers: int) -> Iterator[Row]:
    """Apply a function in order, in some threads; a few results at most are waiting."""
    if workers == 0:
        yield from map(function, records)
        return
    waiting: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for record in records:
            waiting.append(pool.submit(function, record))
            if len(waiting) == 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    sync(path)


def _empty(split: Split) -> DataError:
    return DataError(f"the `{split}` part is empty: there is nothing to write")
