"""Class names, raw values and colours: from the settings, from a file, or from the masks themselves."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hfseg.errors import DataError
from hfseg.labels import Color

CLASS_FILES = ("info.json", "id2label.json", "classes.txt", "classes.json", "classes.yaml", "class_dict.csv")
"""Looked for in a data folder, in this order."""
IGNORE_NAMES = {"ignore", "ignored", "void", "unlabeled", "unlabelled"}
"""Names that stand for ignored pixels where they carry the ignored value."""


@dataclass(frozen=True)
class Classes:
    """Classes as somebody wrote them down, before they become a LabelSpace."""

    names: tuple[str, ...]
    raws: tuple[int, ...] | None = None
    """The raw value of each class; None where they were only listed in order."""
    palette: tuple[Color, ...] | None = None
    ignored: tuple[int, ...] = ()
    """Raw values that are ignored."""
    is_color_table: bool = False
    """Whether `palette` is said to be how RGB masks are painted."""
    origin: str = "data.classes"


def find_classes(data_dir: Path) -> Classes | None:
    """Read the first of `CLASS_FILES` that a folder holds; None where there is none of them.

    Raises:
        DataError: it is there and cannot be understood.
    """
    path = next((data_dir / name for name in CLASS_FILES if (data_dir / name).is_file()), None)
    return None if path is None else read_classes(path)


def read_classes(path: Path) -> Classes:
    """Read class names from a text file (one a line), JSON, YAML, or a CSV of `name,r,g,b`.

    JSON and YAML hold a list of names, `{id: name}`, `{name: id}`, `{name: [r, g, b]}`, or one of these under `names`,
    `classes` or `id2label`, with `palette` and `ignore_index` beside it.

    Raises:
        DataError: it cannot be read, or holds none of these.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = _parse(path, text)
    except OSError as error:
        raise DataError(f"class names `{path}` cannot be read: {error.strerror}", hint=_FORMS) from None
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError, csv.Error) as error:
        raise DataError(f"class names `{path}` cannot be read: {' '.join(str(error).split())}", hint=_FORMS) from None
    classes = _from_tree(tree, str(path))
    if not classes.names:
        raise DataError(f"class names `{path}` is empty: expected at least one name", hint=_FORMS)
    _check_once(classes.names, f"class names `{path}` give the name", "merge classes with `data.merge`")
    _check_once(classes.raws or (), f"class names `{path}` give the raw value", "each class has a value of its own")
    return classes


def from_colors(colors: Mapping[str, Sequence[int]], *, origin: str) -> Classes:
    """Take the classes of a colour table in its order; raw values are places in the table.

    Raises:
        DataError: a colour is not three numbers of 0 to 255, or two classes share one.
    """
    palette = tuple(_color(name, value, origin) for name, value in colors.items())
    shared = [name for name, color in zip(colors, palette, strict=True) if palette.count(color) > 1]
    if shared:
        raise DataError(
            f"{origin} gives one colour to several classes: got {', '.join(f'`{name}`' for name in shared)}"
        )
    return Classes(tuple(colors), None, palette, is_color_table=True, origin=origin)


def _check_once(values: Sequence[str | int], what: str, hint: str) -> None:
    """Refuse what several classes share.

    Raises:
        DataError: a name or a value stands there twice.
    """
    shared = sorted({value for value in values if values.count(value) > 1}, key=str)
    if shared:
        raise DataError(f"{what} {', '.join(f'`{value}`' for value in shared)} more than once", hint=hint)


def _parse(path: Path, text: str) -> Any:
    match path.suffix.lower():
        case ".json":
            return json.loads(text)
        case ".yaml" | ".yml":
            return yaml.safe_load(text)
        case ".csv":
            return _csv_colors(path, text)
        case _:
            return [line.strip() for line in text.splitlines() if line.strip()]


def _csv_colors(path: Path, text: str) -> dict[str, list[int]]:
    rows = [
        {str(key).strip().lower(): value for key, value in row.items()} for row in csv.DictReader(text.splitlines())
    ]
    if not rows or not {"name", "r", "g", "b"} <= rows[0].keys():
        raise DataError(f"class names `{path}` has no columns name, r, g, b", hint=_FORMS)
    names = [str(row["name"]).strip() for row in rows]
    _check_once(names, f"class names `{path}` give the name", "one colour a class; merge classes with `data.merge`")
    try:
        return {name: [int(row[channel]) for channel in "rgb"] for name, row in zip(names, rows, strict=True)}
    except (TypeError, ValueError):
        raise DataError(f"class names `{path}`: expected whole numbers in the columns r, g and b") from None


def _from_tree(tree: Any, origin: str) -> Classes:
    if isinstance(tree, list) and tree and all(isinstance(name, str | int | float) for name in tree):
        return Classes(tuple(str(name) for name in tree), origin=origin)
    if isinstance(tree, dict) and tree:
        inner = next(
            (tree[key] for key in ("names", "classes", "id2label") if isinstance(tree.get(key), dict | list)), None
        )
        if inner is not None:
            return _with_extras(_from_tree(inner, origin), tree)
        if all(isinstance(value, list) for value in tree.values()):
            return from_colors(tree, origin=f"`{origin}`")
        pairs = _ids_and_names(tree)
        if pairs:
            return Classes(tuple(name for _, name in pairs), tuple(raw for raw, _ in pairs), origin=origin)
    raise DataError(f"class names `{origin}` are in no form that is known", hint=_FORMS)


def _ids_and_names(tree: Mapping[Any, Any]) -> list[tuple[int, str]]:
    """Read `{id: name}` or `{name: id}`, sorted by id; nothing where it is neither."""
    if all(str(key).isdigit() for key in tree) and all(isinstance(name, str | int) for name in tree.values()):
        return sorted((int(key), str(name)) for key, name in tree.items())
    if all(isinstance(raw, int) for raw in tree.values()):
        return sorted((raw, str(name)) for name, raw in tree.items())
    return []


def _with_extras(classes: Classes, tree: Mapping[str, Any]) -> Classes:
    palette, ignored = tree.get("palette"), tree.get("ignore_index")
    if isinstance(palette, list):
        if len(palette) != len(classes.names):
            raise DataError(
                f"`{classes.origin}` has {len(classes.names)} names and {len(palette)} colours in `palette`"
            )
        colors = [
            _color(name, value, f"`{classes.origin}`") for name, value in zip(classes.names, palette, strict=True)
        ]
        classes = replace(classes, palette=tuple(colors))
    return replace(classes, ignored=(ignored,)) if isinstance(ignored, int) else classes


def _color(name: str, value: Iterable[Any], origin: str) -> Color:
    channels = tuple(value)
    if len(channels) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in channels):
        raise DataError(f"{origin}: the colour of `{name}` is {list(channels)}: expected three numbers from 0 to 255")
    return channels[0], channels[1], channels[2]


_FORMS = "a .txt holds one name a line; .json and .yaml a list, or {id: name}; .csv the columns name,r,g,b"
