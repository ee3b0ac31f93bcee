"""ADE20K scene parsing, 150 classes: the Parquet copy on the Hub, the `ADEChallengeData2016` folder, or its zip."""

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import model_validator

from hfseg.config import Config
from hfseg.data.layout import image_files
from hfseg.data.load import load_splits, undecoded
from hfseg.data.pairing import pair_by_stem
from hfseg.data.source import source_stem, zip_path
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

ROOT = "ADEChallengeData2016"
HUB_NAME = "merve/scene_parse_150"
_FOLDERS = {"train": "training", "validation": "validation"}
_FILE_PREFIX = {"train": "ADE_train", "validation": "ADE_val"}


class Ade20kConfig(Config):
    """ADE20K: 20,210 training and 2,000 validation scenes; raw 0 is ignored, 1 to 150 become 0 to 149."""

    kind: Literal["ade20k"] = "ade20k"
    data_dir: Path | None = None
    """`ADEChallengeData2016`, its zip, or the folder that holds one of them; without it, `source` is used."""
    source: str = HUB_NAME
    """Hub name or local folder of Parquet files with the columns `image` and `annotation`."""
    merge: dict[str, list[str]] | None = None
    """New class -> the classes it stands for; `*` takes the rest, the new class `ignore` drops its members."""

    @model_validator(mode="after")
    def _one_place(self) -> "Ade20kConfig":
        if self.data_dir is not None and self.source != HUB_NAME:
            raise ValueError("`data_dir` and `source` were both given: expected one place to read from")
        return self

    def labels(self) -> LabelSpace:
        """Give the 150 official classes, or what they are merged into."""
        space = _official_classes()
        return space if self.merge is None else space.merged(self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part; all three forms give the same samples under the same ids.

        Raises:
            DataError: there is no such part, or the data is not where it was said to be.
        """
        if split not in _FOLDERS:
            raise DataError(f"ade20k has no `{split}` part with labels", hint="its parts are train and validation")
        table = self._parquet(split) if self.data_dir is None else self._files(self.data_dir, split)
        return TableDataset(table, self.labels(), name="ade20k")

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

    def _files(self, data_dir: Path, split: Split) -> Any:
        places = (data_dir, data_dir / ROOT)
        root = next((place for place in places if (place / "images" / _FOLDERS[split]).is_dir()), None)
        if root is not None:
            folders = [root / kind / _FOLDERS[split] for kind in ("images", "annotations")]
            images, masks = (image_files(folder) if folder.is_dir() else [] for folder in folders)
            return table_of(pair_by_stem(images, masks, where=f"`{root}`, {_FOLDERS[split]}"))
        archive = next((p for p in (data_dir, data_dir / f"{ROOT}.zip") if p.is_file() and p.suffix == ".zip"), None)
        if archive is not None:
            return table_of(_zipped_pairs(archive, split))
        raise DataError(
            f"no ADE20K in `{data_dir}`: looked for images/{_FOLDERS[split]} in it and in {ROOT}, and for {ROOT}.zip",
            hint=f"download http://data.csail.mit.edu/places/ADEchallenge/{ROOT}.zip; it need not be unpacked",
        )


def _zipped_pairs(archive_path: Path, split: Split) -> list[tuple[str, str]]:
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = [Path(name) for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        hint = "it may not be wholly downloaded: compare its size with the server's"
        raise DataError(f"`{archive_path}` cannot be read: {error}", hint=hint) from None
    images, masks = (
        _members(members, kind, split, ending) for kind, ending in (("images", ".jpg"), ("annotations", ".png"))
    )
    if not images:
        raise DataError(f"`{archive_path}` holds no images/{_FOLDERS[split]}: expected the zip of {ROOT}")
    pairs = pair_by_stem(images, masks, where=f"`{archive_path}`, {_FOLDERS[split]}")
    return [
        (zip_path(image.as_posix(), archive_path), zip_path(mask.as_posix(), archive_path)) for image, mask in pairs
    ]


def _members(members: list[Path], kind: str, split: Split, ending: str) -> list[Path]:
    """The archive's files of one kind and part, whatever folder they lie in; macOS adds folders of its own."""
    wanted = (kind, _FOLDERS[split])
    return sorted(p for p in members if p.parts[-3:-1] == wanted and p.suffix == ending and "__MACOSX" not in p.parts)


def _paths(table: Any) -> list[str | None]:
    """The file names that came with the images, read without their bytes."""
    return [path for chunk in table.data.column("image").chunks for path in chunk.field("path").to_pylist()]


@lru_cache
def _official_classes() -> LabelSpace:
    path = Path(__file__).parent / "assets" / "ade20k.yaml"
    names, palette = zip(*yaml.safe_load(path.read_text(encoding="utf-8"))["classes"], strict=True)
    return LabelSpace.from_names(names, palette=palette, first=1, ignored=(0,))
