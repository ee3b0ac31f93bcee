"""Any data set that `datasets.load_dataset` opens: from the Hub, or a local folder of Parquet files or images."""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hfseg.data.classes import Classes, find_classes
from hfseg.data.columns import find_columns, known_classes
from hfseg.data.load import hub_class_file, load_splits, undecoded
from hfseg.data.record import Record
from hfseg.data.settings import check_buffer
from hfseg.data.space import LabelSettings, label_space
from hfseg.data.stream import StreamDataset
from hfseg.data.table import Split, TableDataset, seeded_split
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

log = logging.getLogger(__name__)
_SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_PEEKED = 100
"""Records of a stream that are looked at to tell binary and painted masks from class indices."""


class HubConfig(LabelSettings):
    """A data set on the Hub, or a local folder that `datasets.load_dataset` opens."""

    kind: Literal["hub"] = "hub"
    name: str
    """`owner/name` on the Hub, or the path of a local folder."""
    config_name: str | None = None
    """Which configuration of the data set, where it has several."""
    revision: str | None = None
    """Branch, tag or commit; `refs/convert/parquet` is the Hub's own Parquet copy."""
    image_column: str | None = None
    """Column of the images; found where not given."""
    label_column: str | None = None
    """Column of the masks; found where not given."""
    train_split: str | None = None
    """Part to train on; found by its name where not given."""
    validation_split: str | None = None
    """Part to validate on; found by its name, or else a seeded share of the training part."""
    test_split: str | None = None
    """Part to test on; found by its name where not given."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training samples that is held out, where there is no validation part."""
    split_seed: NonNegativeInt = 0
    """Which training samples those are."""
    streaming: bool = False
    """Read as it comes, without downloading first; the number of samples is then not known, and `--steps` is needed."""
    shuffle_buffer: PositiveInt = 1000
    """Records from which the next one is drawn while streaming."""

    @model_validator(mode="after")
    def _what_a_stream_can(self) -> "HubConfig":
        if self.streaming and self.rare_class_crop:
            raise ValueError(
                "`rare_class_crop` needs every mask to be counted first, which `streaming` cannot do\n\n"
                "hint: set data.streaming=false, or write the set to shards"
            )
        check_buffer(self, self.shuffle_buffer, streaming=self.streaming)
        return self

    def labels(self) -> LabelSpace:
        """Give the classes: from the settings, the mask column, a file beside the data, or by scanning every mask.

        Raises:
            DataError: the data set cannot be opened, or names, values and colours do not fit together.
        """
        parts = {split: self._columns(table) for split in _SPLIT_WORDS if (table := self._part(split)) is not None}
        if not parts:
            raise self._no_part("train")
        known = known_classes(next(iter(parts.values())).features["label"]) or self._class_file()

        def records() -> Iterator[Record]:
            tables = (table.select_columns(["label"]) for table in parts.values())
            rows = ((number, row) for table in tables for number, row in enumerate(table))
            found = (Record({}, row["label"], f"sample {number}") for number, row in rows)
            return islice(found, _PEEKED) if self.streaming else found

        return label_space(self, records, known=known, is_whole=not self.streaming)

    def open(self, split: Split) -> TableDataset | StreamDataset:
        """Open one part.

        Raises:
            DataError: the data set cannot be opened, or the part or a column is missing; says what there is.
        """
        table = self._part(split)
        has_validation = self._part("validation") is not None
        if table is None and (split != "validation" or self.streaming or self._part("train") is None):
            raise self._no_part(split)
        table = self._columns(self._part("train") if table is None else table)
        if self.streaming:
            return StreamDataset(table, self.labels(), self.name, split, self.shuffle_buffer)
        if len(table) == 0:
            raise DataError(f"the `{split}` part of `{self.name}` is empty")
        prefix = "train" if split == "validation" and not has_validation else split
        table = table.add_column("id", [f"{prefix}-{number:06d}" for number in range(len(table))])
        dataset = TableDataset(table, self.labels(), name=self.name, rare_class_crop=self.rare_class_crop)
        return dataset if split == "test" or has_validation else self._held_out(dataset, split)

    def _held_out(self, train: TableDataset, split: Split) -> TableDataset:
        part: Literal["train", "validation"] = "validation" if split == "validation" else "train"
        fraction, seed = self.validation_fraction, self.split_seed
        chosen = seeded_split(len(train), fraction=fraction, seed=seed, part=part, name=self.name)
        if split == "validation":
            log.info(
                "`%s` has no validation part: %d of %d training samples are held out",
                self.name,
                len(chosen),
                len(train),
            )
        return train.select(chosen)

    def _splits(self) -> Mapping[str, Any]:
        return load_splits(self.name, config_name=self.config_name, revision=self.revision, streaming=self.streaming)

    def _part(self, split: Split) -> Any | None:
        """The table of one part, by its given name or by the first known word; None where there is none."""
        parts = self._splits()
        given = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}[split]
        if given is not None and given not in parts:
            raise DataError(
                f"`{self.name}` has no part `{given}` (`data.{split}_split`)", hint=f"its parts are {', '.join(parts)}"
            )
        name = given or next((word for word in _SPLIT_WORDS[split] if word in parts), None)
        return None if name is None else parts[name]

    def _no_part(self, split: Split) -> DataError:
        parts = ", ".join(self._splits())
        hint = f"its parts are {parts}; choose one with `data.{split}_split`"
        if self.streaming and split == "validation":
            hint += ", or set data.streaming=false: a stream cannot be split"
        return DataError(f"`{self.name}` has no `{split}` part", hint=hint)

    def _columns(self, table: Any) -> Any:
        features = table.features or table._resolve_features().features  # a stream may not know them yet
        image, label = find_columns(features, self.image_column, self.label_column, name=self.name)
        return undecoded(table, image=image, label=label)

    def _class_file(self) -> Classes | None:
        """Read the class names that lie beside the data, locally or on the Hub."""
        local = Path(self.name).expanduser()
        if local.is_dir():
            return find_classes(local)
        return hub_class_file(self.name)
