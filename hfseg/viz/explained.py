"""What `hfseg explain` has left in a run folder: class activation, attention, receptive fields."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfseg.errors import CheckpointError
from hfseg.viz.pictures import Embedded, open_picture, reduced

INDEX = "pictures.json"
HEADINGS = {
    "cam": "Class activation",
    "attention": "Attention heads",
    "receptive_field": "Effective receptive field",
    "faithfulness": "Is the explanation faithful?",
}
"""The kinds of pictures in the order of the page, and their headings."""


@dataclass(frozen=True)
class Explanation:
    """A line of the index; `file` is relative to the folder of explanations."""

    file: str
    kind: str
    title: str
    caption: str


@dataclass(frozen=True)
class Explained:
    """A picture of an explanation, or only its name where it is a film."""

    line: Explanation
    picture: Embedded | None
    moving: bool
    """Whether the file holds more frames than the page shows."""


def read_explanations(folder: Path) -> tuple[Explanation, ...]:
    """Read the index of a folder of explanations; nothing where there is no folder.

    Raises:
        CheckpointError: the index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return ()
    try:
        return tuple(_explanation(row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"`{path}` is no list of pictures: {error}", hint="`hfseg explain` writes it: delete it and explain again"
        ) from None


def embed_explanations(lines: tuple[Explanation, ...], folder: Path, *, max_bytes: int) -> dict[str, list[Explained]]:
    """Turn explanations into pictures of a page by kind, all together of at most `max_bytes`."""
    found: dict[str, list[Explained]] = {}
    for kind in [*HEADINGS, *dict.fromkeys(line.kind for line in lines if line.kind not in HEADINGS)]:
        of_kind = [_explained(line, folder, max_bytes // len(lines)) for line in lines if line.kind == kind]
        if of_kind:
            found[HEADINGS.get(kind, kind)] = of_kind
    return found


def _explained(line: Explanation, folder: Path, max_bytes: int) -> Explained:
    path = folder / line.file
    inside = path.resolve().is_relative_to(folder.resolve())
    picture = open_picture(path) if inside else None
    moving = path.suffix.lower() in {".gif", ".mp4"}
    if picture is None:
        return Explained(line, None, moving)
    return Explained(line, reduced(line.file, line.caption, picture, max_bytes=max_bytes), moving)


def _explanation(row: Mapping[str, Any]) -> Explanation:
    return Explanation(*(str(row[key]) for key in ("file", "kind", "title", "caption")))
