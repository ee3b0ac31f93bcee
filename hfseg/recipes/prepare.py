"""`hfseg data prepare`: from any data set to Parquet shards with a manifest, which train the same model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from hfseg.config import Config
from hfseg.data import DataConfig, Split
from hfseg.data.manifest import Manifest
from hfseg.data.prepare import Layout, prepare
from hfseg.recipes.console import progress


class PrepareConfig(Config):
    """What is written, where to, and in which pieces."""

    data: DataConfig
    output: Path
    """Folder of the shards; it must not hold anything yet."""
    parts: tuple[Split, ...] = Field(default=("train", "validation"), min_length=1)
    """The parts that are written."""
    shard_mb: PositiveInt = 256
    """Size of a shard that is aimed at, in 10^6 bytes."""
    min_shards: PositiveInt = 1
    """The number of shards of a part is this or a multiple of it, unless it has fewer samples: give the number of
    processes that will train, and each of them can read shards of its own."""
    shuffle_seed: NonNegativeInt | None = None
    """Write the samples in a seeded random order, for sets that are sorted and will be streamed; in the order of the
    data set where it is not given."""
    workers: NonNegativeInt = 2
    """Threads that read and check samples ahead."""


@dataclass(frozen=True)
class Result:
    """A prepared data set."""

    folder: Path
    manifest: Manifest


def run(config: PrepareConfig) -> Result:
    """Write the parts of a data set as shards; the folder appears once all of it is written.

    Raises:
        DataError: the output is not empty, or the data cannot be used; names the file. Nothing is left then.
    """
    parts = {part: config.data.open(part) for part in config.parts}
    layout = Layout(config.shard_mb, config.min_shards, config.shuffle_seed)
    source = config.data.model_dump(mode="json")
    with progress(f"writing {config.output}") as show:
        manifest = prepare(parts, config.output, source=source, layout=layout, workers=config.workers, progress=show)
    return Result(config.output, manifest)


def to_text(result: Result) -> str:
    """Write a line for each part: samples, shards and bytes."""
    return "\n".join(
        f"{part}: {sum(shard.rows for shard in shards):,} samples in {len(shards)} shards, "
        f"{sum(shard.bytes for shard in shards):,} bytes"
        for part, shards in result.manifest.parts.items()
    )


def to_json(result: Result) -> dict[str, Any]:
    """Write the folder and its manifest as plain values."""
    return {"folder": str(result.folder), **result.manifest.model_dump(mode="json")}
