"""A data set that `hfseg data prepare` wrote: Parquet shards with a manifest, on a disk or mounted from elsewhere."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from hfseg.data.manifest import read_labels_file, read_manifest
from hfseg.data.merging import merged
from hfseg.data.settings import DatasetSettings, check_buffer
from hfseg.data.shard_table import ShardTable, check_files
from hfseg.data.table import Split, TableDataset
from hfseg.errors import DataError
from hfseg.labels import LabelSpace


class ShardsConfig(DatasetSettings):
    """Prepared shards: the samples and classes of the data set they were made from, in its order."""

    kind: Literal["shards"] = "shards"
    data_dir: Path
    """The folder that `hfseg data prepare` wrote."""
    streaming: bool = False
    """Read each shard from its beginning to its end, on one process where the number of shards is a multiple of that of
    the processes: for data on a network. Without it each batch is drawn from the whole set, as it is from folders."""
    shuffle_buffer: PositiveInt = 10_000
    """Neighbours that are mixed while streaming. Only their numbers are held in memory; what it costs is that a row
    group is read again for each of its rows, out of the system's cache while these neighbours fit there."""

    @model_validator(mode="after")
    def _buffer_is_used(self) -> "ShardsConfig":
        check_buffer(self, self.shuffle_buffer, streaming=self.streaming)
        return self

    def labels(self) -> LabelSpace:
        """Give the classes that the shards were written with, or what `merge` makes of them.

        Raises:
            DataError: the folder is no prepared data set, or its classes have changed since it was written.
        """
        return merged(read_labels_file(self.data_dir, read_manifest(self.data_dir)), self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part; sizes of files are compared with the manifest, `check_checksums` compares their content.

        Raises:
            DataError: the folder is no prepared data set, has no such part, or a shard is missing or cut off.
        """
        manifest = read_manifest(self.data_dir)
        if split not in manifest.parts:
            raise DataError(
                f"`{self.data_dir}` has no `{split}` part", hint=f"its parts are {', '.join(manifest.parts)}"
            )
        window = self.shuffle_buffer if self.streaming else None
        table = ShardTable(self.data_dir, manifest.parts[split], window=window)
        check_files(table)
        name = self.data_dir.resolve().name
        return TableDataset(table, self.labels(), name=name, rare_class_crop=self.rare_class_crop)
