"""ADE20K scene parsing: the Parquet copy on the Hub, the `ADEChallengeData2016` folder, or its zip."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from hfseg.data.load import load_splits, undecoded
from hfseg.data.merging import merged
from hfseg.data.official import official
from hfseg.data.settings import DatasetSettings
from hfseg.data.source import source_stem
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.data.tree import open_tree, paired
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

ROOT = "ADEChallengeData2016"
HUB_NAME = "merve/scene_parse_150"
FOUR_CLASSES = "ade20k-4"
_FOLDERS = {"train": "training", "validation": "validation"}
_FILE_PREFIX = {"train": "ADE_train", "validation": "ADE_val"}


class Ade20kSettings(DatasetSettings):
    """Where ADE20K lies, whatever its classes are."""

    data_dir: Path | None = None
    """`ADEChallengeData2016`, its zip, or the folder that holds one of them; without it, `source` is used."""
    source: str = HUB_NAME
    """Hub name or local folder of Parquet files with the columns `image` and `annotation`."""

    @model_validator(mode="after")
    def _one_place(self) -> "Ade20kSettings":
        if self.data_dir is not None and self.source != HUB_NAME:
            raise ValueError("`data_dir` and `source` were both given: expected one place to read from")
        return self

    def _open(self, split: Split, labels: LabelSpace, name: str) -> TableDataset:
        if split not in _FOLDERS:
            raise DataError(f"ade20k has no `{split}` part with labels", hint="its parts are train and validation")
        table = self._parquet(split) if self.data_dir is None else table_of(_files(self.data_dir, _FOLDERS[split]))
        official("ade20k").compare_size(split, len(table))
        return TableDataset(table, labels, name=name, rare_class_crop=self.rare_class_crop)

    def _parquet(self, split: Split) -> Any:
        parts = load_splits(self.source)
        needed = {"image", "annotation"}
        if split not in parts or not needed <= set(parts[split].column_names):
            found = {name: part.column_names for name, part in parts.items()}
            raise DataError(
                f"`{self.source}` has no part `{split}` with the columns image and annotation: found {found}"
            )
        table = undecoded(parts[split], image="image", label="annotation")
        names = [source_stem({"path": path}) for path in _paths(table)]
        ids = [name or f"{_FILE_PREFIX[split]}_{number + 1:08d}" for number, name in enumerate(names)]
        return table.add_column("id", ids)


class Ade20kConfig(Ade20kSettings):
    """ADE20K: 20,210 training and 2,000 validation scenes; raw 0 is ignored, 1 to 150 become 0 to 149."""

    kind: Literal["ade20k"] = "ade20k"

    def labels(self) -> LabelSpace:
        """Give the 150 official classes, or what they are merged into."""
        return merged(official("ade20k").labels, self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part; all three forms give the same samples under the same ids.

        Raises:
            DataError: there is no such part, or the data is not where it was said to be.
        """
        return self._open(split, self.labels(), "ade20k")


class Ade20kFourConfig(Ade20kSettings):
    """ADE20K in four classes: background, plant, person/animal and vehicle, as `assets/ade20k-4.yaml` lists them."""

    kind: Literal["ade20k-4"] = "ade20k-4"

    def labels(self) -> LabelSpace:
        """Give the four classes, or what they are merged into further."""
        return merged(merged(official("ade20k").labels, FOUR_CLASSES), self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part; all three forms give the same samples under the same ids.

        Raises:
            DataError: there is no such part, or the data is not where it was said to be.
        """
        return self._open(split, self.labels(), FOUR_CLASSES)


def _files(data_dir: Path, folder: str) -> list[tuple[str, str]]:
    tree = open_tree(data_dir, f"images/{folder}", folders=("", ROOT), archive=f"{ROOT}.zip")
    if tree is None:
        raise DataError(
            f"no ADE20K in `{data_dir}`: looked for images/{folder} in it and in {ROOT}, and for {ROOT}.zip",
            hint=f"download http://data.csail.mit.edu/places/ADEchallenge/{ROOT}.zip; it need not be unpacked",
        )
    return paired(tree, f"images/{folder}/*", tree, f"annotations/{folder}/*")


def _paths(table: Any) -> list[str | None]:
    """The file names that came with the images, read without their bytes."""
    return [path for chunk in table.data.column("image").chunks for path in chunk.field("path").to_pylist()]
