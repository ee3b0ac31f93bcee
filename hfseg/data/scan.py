"""What values or colours a set of masks holds: how classes are found where nobody has named them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hfseg.data.decode import count_values, open_mask
from hfseg.data.record import Record
from hfseg.data.source import read_bytes
from hfseg.errors import DataError
from hfseg.labels import Color

MOST_CLASSES = 1000
"""More different values than this are taken for something other than classes."""
BLACK: Color = (0, 0, 0)


@dataclass(frozen=True)
class Found:
    """What one mask holds."""

    values: frozenset[int]
    """Raw values; of an RGB mask whose three channels agree, that channel's."""
    colors: frozenset[Color] | None = None
    """Colours of an RGB mask; None where it holds indices."""

    @property
    def is_painted(self) -> bool:
        """Whether the mask can only be read by a colour table."""
        return self.colors is not None and any(len(set(color)) > 1 for color in self.colors)


def found_values(records: Iterable[Record]) -> frozenset[int]:
    """Collect the raw values of all masks.

    Raises:
        DataError: a mask holds colours, there are too many values for classes, or no mask can be read; names the file.
    """
    values: set[int] = set()
    for record, found in readable(records):
        values |= _indices(record, found)
        if len(values) > MOST_CLASSES:
            raise DataError(
                f"the masks up to `{record.label_name}` hold {len(values)} different values: expected one a class",
                hint="these look like photographs, depth or instance numbers; name the classes with `data.classes`",
            )
    return frozenset(values)


def binary_values(records: Iterable[Record]) -> tuple[int, int] | None:
    """Give the raw values of background and object, (0, 255) or (0, 1); None where masks hold more or only 0.

    In masks of 0, 1 and 255, 255 is taken for the ignored value if it stands beside 1 in a mask; stops there, or at the
    first mask that is not binary.

    Raises:
        DataError: some masks hold 1 and others 255, so that 255 may be either; or a mask holds colours, or none can be
            read.
    """
    holders: dict[int, str] = {}
    for record, found in readable(records):
        values = _indices(record, found)
        if values - {0, 1, 255}:
            return None
        if values >= {1, 255}:
            return 0, 1
        holders |= dict.fromkeys(values - {0} - holders.keys(), record.label_name)
    if len(holders) == 2:
        raise DataError(
            f"the masks are binary in two ways: `{holders[1]}` holds 0 and 1, `{holders[255]}` holds 0 and 255",
            hint="if 255 is ignored: --set 'data.ignored_values=[255]'; if it is the object, save all masks alike",
        )
    return (0, next(iter(holders))) if holders else None


def binary_colors(records: Iterable[Record]) -> tuple[Color, Color] | None:
    """Give the two colours of painted masks, black first; None where there are more or fewer, or masks hold indices.

    Raises:
        DataError: no mask can be read; names the first.
    """
    colors: set[Color] = set()
    for _, found in readable(records):
        if found.colors is None:
            return None
        colors |= found.colors
        if len(colors) > 2:
            return None
    painted = any(len(set(color)) > 1 for color in colors)
    first, second = sorted(colors) if painted and len(colors) == 2 else (None, None)
    return None if first is None or second is None else (first, second)


def readable(records: Iterable[Record]) -> Iterator[tuple[Record, Found]]:
    """Look at every mask that can be read; the others are told by whoever reads all files to check them.

    Raises:
        DataError: there are masks and none can be read; names the first.
    """
    first: DataError | None = None
    some = False
    for record in records:
        try:
            found = look(record)
        except DataError as error:
            first = first or error
            continue
        some = True
        yield record, found
    if first is not None and not some:
        raise first


def _indices(record: Record, found: Found) -> frozenset[int]:
    """Give the raw values of a mask.

    Raises:
        DataError: it holds colours; names the file and the colours.
    """
    if found.colors is not None and found.is_painted:
        shown = ", ".join(str([*color]) for color in sorted(found.colors)[:6])
        count = len(found.colors)
        raise DataError(
            f"mask `{record.label_name}` is an RGB image with {count} colours: {shown}{', ...' if count > 6 else ''}",
            hint="give the colour of each class: --set 'data.colors={road: [128, 64, 128], car: [0, 0, 142]}', "
            "or a CSV file of name,r,g,b",
        )
    return found.values


def look(record: Record) -> Found:
    """Find the values and colours of one mask.

    Raises:
        DataError: it is broken; names the file.
    """
    if isinstance(record.label, list):
        return Found(frozenset(int(value) for value in np.unique(np.asarray(record.label))))
    path = record.label.get("path")
    if record.label.get("bytes") is not None or not path or "://" in path:
        return _found(record.label, record.label_name)
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from None
    return _file_found(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1 << 17)
def _file_found(path: str, changed_ns: int, size: int) -> Found:
    """Remember what a file holds for as long as it is the same file: each part of a set asks for all masks."""
    return _found({"path": path}, path)


def _found(source: Mapping[str, Any], name: str) -> Found:
    image = open_mask(read_bytes(source, name=name), name=name, colored=True)
    if image.mode != "RGB":
        return Found(frozenset(count_values(image)))
    counted = image.getcolors(image.width * image.height) or []
    colors = frozenset((red, green, blue) for _, (red, green, blue) in counted)
    return Found(frozenset(red for red, _, _ in colors), colors)
