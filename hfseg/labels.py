"""LabelSpace: the classes of a data set, their colours, and how raw mask values become train ids."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Integer, UInt8

from hfseg.errors import DataError

IGNORE_INDEX = 255
IGNORE = "ignore"
"""The name that stands for the ignored label wherever classes are named."""

Color = tuple[int, int, int]


def default_palette(names: Sequence[str]) -> tuple[Color, ...]:
    """Give each class a colour of its own, the first ones far apart.

    Source: the bit-reversal palette of Pascal VOC; its black is kept for a first class called `background`.
    """
    first = 0 if names[:1] and names[0].casefold() == "background" else 1
    return tuple(_voc_color(first + index) for index in range(len(names)))


@dataclass(frozen=True)
class LabelSpace:
    """Class names and colours, and one table from raw mask values to train ids.

    The table is applied once, by `encode`, when a sample is read. It is the only place where a data set's "reduce",
    its trainIds, a merge of classes or a colour table exist. Train ids run from 0 to `num_labels - 1`; every other raw
    value is either mapped to `ignore_index` or an error.

    Raises:
        DataError: the table names a class that does not exist, or `ignore_index` is one of the classes.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    table: Mapping[int, int]
    """Raw value -> train id or `ignore_index`."""
    colors: Mapping[Color, int] | None = None
    """RGB of a colour mask -> raw value; None where masks hold the raw values themselves."""
    ignore_index: int = IGNORE_INDEX

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("a label space needs at least one class: got none")
        if 0 <= self.ignore_index < self.num_labels:
            raise DataError(
                f"ignore_index {self.ignore_index} is also a class: got {self.num_labels} classes",
                hint="set `data.ignore_index` to a value outside the classes, for instance 65535",
            )
        if len(self.palette) != self.num_labels:
            raise DataError(f"palette has {len(self.palette)} colours: expected {self.num_labels}, one for each class")
        strangers = {i for i in self.table.values() if i != self.ignore_index and not 0 <= i < self.num_labels}
        if strangers:
            raise DataError(f"label table maps to class ids {sorted(strangers)}: expected 0 to {self.num_labels - 1}")

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        *,
        palette: Sequence[Sequence[int]] | None = None,
        first: int = 0,
        ignored: Iterable[int] = (),
        ignore_index: int = IGNORE_INDEX,
    ) -> "LabelSpace":
        """Make a space whose raw values are `first, first + 1, ...` in the order of `names`.

        The values in `ignored`, and `ignore_index` itself unless it is a class, are ignored.
        """
        table = {first + index: index for index in range(len(names))}
        table = {**dict.fromkeys((*ignored, ignore_index), ignore_index), **table}
        colors = default_palette(names) if palette is None else [(int(r), int(g), int(b)) for r, g, b in palette]
        return cls(tuple(names), tuple(colors), table, ignore_index=ignore_index)

    @property
    def num_labels(self) -> int:
        """The number of classes, ignored pixels not among them."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Train id -> class name, as Transformers' configs hold it."""
        return dict(enumerate(self.names))

    @property
    def dtype(self) -> type[np.uint8] | type[np.int64]:
        """The type of encoded labels: bytes where every id and `ignore_index` fit into one."""
        return np.uint8 if max(self.num_labels - 1, self.ignore_index) <= 255 and self.ignore_index >= 0 else np.int64

    def encode(self, mask: Integer[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
        """Turn a raw mask into train ids, all values at once; the mask itself stays as it is.

        Raises:
            DataError: the mask holds values or colours that the table does not know; names them with their counts.
        """
        raw = self._from_colors(mask) if mask.ndim == 3 else mask
        if raw.dtype == np.uint8 and self._byte_lookup is not None:
            lookup, unknown = self._byte_lookup
            ids = np.frombuffer(bytearray(raw.tobytes()).translate(lookup), dtype=np.uint8)
            if (ids == unknown).any():
                raise self._unknown(raw)
            return ids.reshape(raw.shape)
        low, high = int(raw.min()), int(raw.max())
        if low < 0 or high >= len(self._lookup):
            raise self._unknown(raw)
        ids = self._lookup[raw]
        if self._has_gaps and (ids == _UNKNOWN).any():
            raise self._unknown(raw)
        encoded: Integer[np.ndarray, "h w"] = ids.astype(self.dtype)
        return encoded

    def colorize(self, ids: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """Paint train ids in the palette; anything that is no class becomes mid grey."""
        palette = np.asarray([*self.palette, (128, 128, 128)], dtype=np.uint8)
        known = (ids >= 0) & (ids < self.num_labels)
        return palette[np.where(known, ids, self.num_labels)]

    def decode(self, ids: Integer[np.ndarray, "h w"], *, ignored: int = 0) -> Integer[np.ndarray, "h w"]:
        """Turn train ids back into raw values, as the server of a benchmark wants them.

        Ignored pixels become the raw value `ignored`.

        Raises:
            DataError: a class has not exactly one raw value, as after a merge.
            ValueError: an id is neither a class nor `ignore_index`.
        """
        is_class = (ids >= 0) & (ids < self.num_labels)
        strangers = ids[~is_class & (ids != self.ignore_index)]
        if strangers.size:
            raise ValueError(f"id {int(strangers.flat[0])} is no class: expected 0 to {self.num_labels - 1}")
        raws = np.asarray([*self._raw_values, ignored], dtype=np.int32)
        fits = raws.min() >= 0 and raws.max() <= 255
        return (raws.astype(np.uint8) if fits else raws)[np.where(is_class, ids, self.num_labels)]

    def _from_colors(self, mask: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
        if self.colors is None:
            raise DataError(
                "mask is an RGB image: expected one value a pixel",
                hint="give the colour of each class, as a colour table (`data.colors`), or save index masks",
            )
        codes, raws = self._color_lookup
        packed = _pack(mask)
        place = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
        unknown = codes[place] != packed
        if unknown.any():
            values, counts = np.unique(packed[unknown], return_counts=True)
            worst = values[counts.argmax()]
            rgb = (int(worst >> 16), int(worst >> 8 & 255), int(worst & 255))
            raise DataError(
                f"mask has the colour {rgb} in {int(counts.max())} pixels: "
                f"{len(values)} of its colours are not in the colour table of {len(codes)}"
            )
        raw: Integer[np.ndarray, "h w"] = raws[place]
        return raw

    def _unknown(self, raw: Integer[np.ndarray, "h w"]) -> DataError:
        values, counts = np.unique(raw, return_counts=True)
        bad = [(int(v), int(c)) for v, c in zip(values, counts, strict=True) if int(v) not in self.table]
        shown = ", ".join(f"{value} in {count} pixels" for value, count in bad[:5])
        more = f" and {len(bad) - 5} more values" if len(bad) > 5 else ""
        return DataError(
            f"mask has the value {shown}{more}: expected {_ranges(self.table)}",
            hint=f"there are {self.num_labels} classes; ignored pixels are {self.ignore_index}",
        )

    @cached_property
    def _lookup(self) -> Integer[np.ndarray, " n"]:
        lookup = np.full(max(self.table) + 1, _UNKNOWN, dtype=np.int32)
        for raw, label in self.table.items():
            if raw >= 0:  # an `ignore_index` below 0 is a label only
                lookup[raw] = label
        return lookup

    @cached_property
    def _byte_lookup(self) -> tuple[bytes, int] | None:
        """The table for masks of bytes, several times faster, and the byte that stands for unknown values in it."""
        free = sorted(set(range(256)) - {*range(self.num_labels), self.ignore_index})
        if self.dtype is not np.uint8 or not free:
            return None
        return bytes(self.table.get(raw, free[-1]) for raw in range(256)), free[-1]

    @cached_property
    def _raw_values(self) -> tuple[int, ...]:
        """The raw value of each class."""
        raws: dict[int, list[int]] = {}
        for raw, label in self.table.items():
            raws.setdefault(label, []).append(raw)
        for label, name in enumerate(self.names):
            if len(raws.get(label, [])) != 1:
                held = ", ".join(map(str, sorted(raws.get(label, [])))) or "none"
                raise DataError(
                    f"class `{name}` cannot be turned back into one raw value: it stands for {held}",
                    hint="predict with the data set's own classes, without `data.merge`",
                )
        return tuple(raws[label][0] for label in range(self.num_labels))

    @cached_property
    def _has_gaps(self) -> bool:
        return bool((self._lookup == _UNKNOWN).any())

    @cached_property
    def _color_lookup(self) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
        colors = self.colors or {}
        codes = _pack(np.asarray([list(colors)], dtype=np.uint8))[0]
        order = np.argsort(codes)
        return codes[order], np.asarray(list(colors.values()), dtype=np.int32)[order]


_UNKNOWN = -(1 << 31)


def _pack(mask: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
    wide = mask.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _ranges(values: Iterable[int]) -> str:
    """Write integers as `0 to 10, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)


def _voc_color(index: int) -> Color:
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> channel & 1) << (7 - bit)
        index >>= 3
    return channels[0], channels[1], channels[2]
