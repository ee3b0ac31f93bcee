"""What lies beside the shards of a prepared data set: which files there are, and what its masks mean."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from hfseg.data.table import Split
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

VERSION = 1
"""Of the layout of the folder; a folder of another version is refused."""
MANIFEST = "manifest.json"
LABELS = "labels.json"


class Shard(BaseModel):
    """One Parquet file, as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^\w[\w.-]*\.parquet$")]
    """Its name in the folder."""
    rows: PositiveInt
    bytes: NonNegativeInt
    sha256: str


class Manifest(BaseModel):
    """The whole of a prepared data set; written last, so that a folder that has it is complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    source: dict[str, Any]
    """The settings of the data set that was prepared."""
    labels_sha256: str
    parts: dict[Split, tuple[Shard, ...]]


def read_manifest(data_dir: Path) -> Manifest:
    """Read the manifest of a prepared data set.

    Raises:
        DataError: there is none, or it is of another version.
    """
    path = data_dir / MANIFEST
    hint = "write it anew with `hfseg data prepare DATASET --output DIR`"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        version = tree["version"]
    except FileNotFoundError:
        raise DataError(f"`{data_dir}` is no prepared data set: `{MANIFEST}` is missing", hint=hint) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{path}` cannot be read: {' '.join(str(error).split())}", hint=hint) from None
    if version != VERSION:
        raise DataError(f"`{path}` has the version {version}: expected {VERSION}", hint=f"update hfseg, or {hint}")
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"`{path}` is damaged: `{where}`: {first['msg']}: got {first['input']!r}", hint=hint) from None


def read_labels_file(data_dir: Path, manifest: Manifest) -> LabelSpace:
    """Read the label space that the masks in the shards are encoded by.

    Raises:
        DataError: it is missing, or is not what was written.
    """
    path = data_dir / LABELS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {error}", hint=_COPY_AGAIN) from None
    if sha256_of_text(text) != manifest.labels_sha256:
        raise DataError(f"`{path}` is not as it was written: its checksum differs from the manifest's", hint=_RENAME)
    tree = json.loads(text)
    colors = tree["colors"]
    return LabelSpace(
        names=tuple(tree["names"]),
        palette=tuple((r, g, b) for r, g, b in tree["palette"]),
        table=dict(tree["table"]),
        colors=None if colors is None else {(r, g, b): raw for (r, g, b), raw in colors},
        ignore_index=tree["ignore_index"],
    )


def labels_text(space: LabelSpace) -> str:
    """Write all of a label space as JSON: names, colours, and the tables from colours to raw values to train ids."""
    tree = {
        "names": space.names,
        "palette": space.palette,
        "table": list(space.table.items()),
        "colors": None if space.colors is None else list(space.colors.items()),
        "ignore_index": space.ignore_index,
    }
    return json.dumps(tree)


def sha256_of_text(text: str) -> str:
    """Give the checksum of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Read a file and give its checksum; the interpreter is free meanwhile."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_COPY_AGAIN = "copy the folder again"
_RENAME = "copy it again; to change classes use `data.merge`"
