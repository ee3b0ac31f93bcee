"""What values a set of masks holds: how classes are found where nobody has named them."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hfseg.data.decode import count_values, mask_array, open_mask
from hfseg.data.record import Record
from hfseg.data.source import read_bytes
from hfseg.errors import DataError

MOST_CLASSES = 1000
"""More different values than this are taken for something other than classes."""
BINARY = frozenset({0, 255})


def found_values(records: Iterable[Record]) -> frozenset[int]:
    """Collect the raw values of all masks.

    Raises:
        DataError: a mask is broken, holds colours, or there are too many values for classes; names the file.
    """
    values: set[int] = set()
    for record in records:
        values |= mask_values(record)
        if len(values) > MOST_CLASSES:
            raise DataError(
                f"the masks up to `{record.label_name}` hold {len(values)} different values: expected one a class",
                hint="these look like photographs, depth or instance numbers; name the classes with `data.classes`",
            )
    return frozenset(values)


def is_binary(records: Iterable[Record]) -> bool:
    """Tell whether every mask holds only 0 and 255, and some mask holds 255; stops at the first that holds another.

    Raises:
        DataError: a mask that was looked at is broken or holds colours; names the file.
    """
    seen = False
    for record in records:
        values = mask_values(record)
        if values - BINARY:
            return False
        seen = seen or 255 in values
    return seen


def mask_values(record: Record) -> frozenset[int]:
    """Collect the raw values of one mask.

    Raises:
        DataError: it is broken or holds colours; names the file, and the colours.
    """
    if isinstance(record.label, list):
        return frozenset(int(value) for value in np.unique(np.asarray(record.label)))
    path = record.label.get("path")
    if record.label.get("bytes") is not None or not path or "://" in path:
        return _values(record.label, record.label_name)
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from None
    return _file_values(path, stat.st_mtime_ns, stat.st_size)


def is_colored(record: Record) -> bool:
    """Tell whether a mask is painted in RGB colours.

    Raises:
        DataError: it is broken; names the file.
    """
    if isinstance(record.label, list):
        return False
    name = record.label_name
    return open_mask(read_bytes(record.label, name=name), name=name, colored=False).mode == "RGB"


@lru_cache(maxsize=1 << 17)
def _file_values(path: str, changed_ns: int, size: int) -> frozenset[int]:
    """Remember the values of a file for as long as it is the same file: each part of a set asks for all masks."""
    return _values({"path": path}, path)


def _values(source: Mapping[str, Any], name: str) -> frozenset[int]:
    image = open_mask(read_bytes(source, name=name), name=name, colored=False)
    if image.mode == "RGB":
        colors = np.unique(mask_array(image).reshape(-1, 3), axis=0)
        shown = ", ".join(str([int(channel) for channel in color]) for color in colors[:6])
        raise DataError(
            f"mask `{name}` is an RGB image with {len(colors)} colours: {shown}{', ...' if len(colors) > 6 else ''}",
            hint="give the colour of each class: --set 'data.colors={road: [128, 64, 128], car: [0, 0, 142]}', "
            "or a CSV file of name,r,g,b",
        )
    return frozenset(count_values(image))
