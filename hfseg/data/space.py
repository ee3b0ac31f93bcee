"""From what is known about the classes to the LabelSpace of a data set."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pydantic import NonNegativeInt, model_validator

from hfseg.config import Config
from hfseg.data.classes import IGNORE_NAMES, Classes, find_classes, from_colors, read_classes
from hfseg.data.record import Record
from hfseg.data.scan import found_values, is_binary, is_colored
from hfseg.errors import DataError
from hfseg.labels import IGNORE_INDEX, Color, LabelSpace, default_palette

log = logging.getLogger(__name__)
BACKGROUND = "background"
_LOOKED_AT = 20
"""Masks that are looked at to tell colours from indices."""


class LabelSettings(Config):
    """What a person says about the values of the masks."""

    classes: str | tuple[str, ...] | None = None
    """Class names in the order of their raw values, or the path of a .txt, .json, .yaml or .csv file that holds them.
    One name stands for that object and `background`. Without names, a file beside the data is looked for, then the
    masks are scanned."""
    colors: str | dict[str, Color] | None = None
    """Class name -> [r, g, b] of masks that are painted, or the path of a CSV file of name,r,g,b. The colours of
    `ignore` and `void` are ignored."""
    merge: dict[str, list[str]] | None = None
    """New class -> the classes it stands for; `*` takes the rest, the new class `ignore` drops its members."""
    first_value: NonNegativeInt = 0
    """Raw value of the first class, where the masks hold raw values."""
    ignored_values: tuple[NonNegativeInt, ...] = ()
    """Raw values that are ignored, beside `ignore_index`."""
    ignore_index: int = IGNORE_INDEX
    """Label of ignored pixels; as a raw value it is ignored too."""

    @model_validator(mode="after")
    def _only_what_counts(self) -> "LabelSettings":
        names = self.classes if isinstance(self.classes, tuple) else ()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or self.classes in ((), ""):
            raise ValueError(f"`classes` names {', '.join(twice)} twice" if twice else "`classes` is empty")
        if self.colors is not None and (self.first_value or self.ignored_values):
            raise ValueError(
                "`first_value` and `ignored_values` do nothing beside `colors`: painted masks have no raw values\n\n"
                "hint: give ignored pixels a colour under the name `ignore`"
            )
        return self


def label_space(
    settings: LabelSettings,
    records: Callable[[], Iterable[Record]],
    *,
    data_dir: Path | None = None,
    known: Classes | None = None,
    is_whole: bool = True,
) -> LabelSpace:
    """Make the label space from the settings, a class file in `data_dir`, `known` classes, or the masks themselves.

    `records` gives all masks afresh at each call, or only the first of them where `is_whole` is false: classes are
    not guessed from these.

    Raises:
        DataError: names, values and colours do not fit together, or none can be found.
    """
    classes = _named_classes(settings, data_dir) or known
    if classes is None and not is_whole:
        raise DataError("the classes are not named anywhere, and a stream is not scanned for them", hint=_NAME_THEM)
    classes = classes or _scanned_classes(settings, records())
    classes = _with_found_colors(classes, records)
    if classes.is_color_table:
        space = _colored_space(classes, ignore_index=settings.ignore_index)
    else:
        classes = _one_means_two(classes, settings.first_value)
        space = _index_space(_with_raws(classes, settings, records), settings)
    return space if settings.merge is None else space.merged(settings.merge)


def _named_classes(settings: LabelSettings, data_dir: Path | None) -> Classes | None:
    """Take the names from the settings, else from a file; a colour table of the settings is laid over them."""
    listed: Classes | None
    if isinstance(settings.classes, tuple):
        listed = Classes(settings.classes) if settings.classes else None
    elif settings.classes is not None:
        listed = read_classes(_beside(settings.classes, data_dir))
    else:
        listed = None if data_dir is None else find_classes(data_dir)
    if settings.colors is None:
        return listed
    if isinstance(settings.colors, str):
        table = read_classes(_beside(settings.colors, data_dir))
        if not table.is_color_table:
            raise DataError(f"`{settings.colors}` holds no colours", hint="a colour table is a CSV file of name,r,g,b")
    else:
        table = from_colors(settings.colors, origin="data.colors")
    return table if listed is None or settings.classes is None else _joined(listed, table)


def _joined(listed: Classes, table: Classes) -> Classes:
    """Put the colours of a table into the order of the listed names."""
    assert table.palette is not None
    colors = dict(zip(table.names, table.palette, strict=True))
    ignored = {name: color for name, color in colors.items() if name.lower() in IGNORE_NAMES}
    missing = [name for name in listed.names if name not in colors]
    strangers = [name for name in colors if name not in listed.names and name not in ignored]
    if missing or strangers:
        what = "has no colour for" if missing else "gives a colour to the unknown class"
        raise DataError(
            f"{table.origin} {what} {', '.join(f'`{name}`' for name in missing or strangers)}",
            hint=f"the classes are {', '.join(listed.names)}",
        )
    extra = {name: color for name, color in ignored.items() if name not in listed.names}
    return from_colors({**{name: colors[name] for name in listed.names}, **extra}, origin=table.origin)


def _scanned_classes(settings: LabelSettings, records: Iterable[Record]) -> Classes:
    """Find the classes by their values in the masks."""
    values = found_values(records)
    binary = values == {0, IGNORE_INDEX}
    ignored = set(settings.ignored_values) | (set() if binary else {settings.ignore_index})
    raws = tuple(sorted(value for value in values - ignored if value >= settings.first_value))
    if len(raws) < 2:
        raise DataError(
            f"the classes are not named anywhere, and the masks hold only the values {sorted(values)}", hint=_NAME_THEM
        )
    names = (BACKGROUND, "object") if binary else tuple(f"class_{raw}" for raw in raws)
    log.info("the classes are not named anywhere: %d found in the masks: %s", len(raws), ", ".join(names))
    return Classes(names, raws, origin="the masks")


def _one_means_two(classes: Classes, first_value: int) -> Classes:
    """Read one name as that object and its background."""
    if len(classes.names) > 1 or classes.raws is not None:
        return classes
    color = classes.palette[0] if classes.palette else default_palette(("object",))[0]
    raws = (0, first_value) if first_value else None
    return replace(classes, names=(BACKGROUND, *classes.names), raws=raws, palette=((0, 0, 0), color))


def _with_raws(classes: Classes, settings: LabelSettings, records: Callable[[], Iterable[Record]]) -> Classes:
    """Give each class its raw value; two classes in masks of 0 and 255 only are 0 and 255."""
    if classes.raws is not None:
        return classes
    count = len(classes.names)
    if count == 2 and not settings.first_value and is_binary(records()):
        log.info("the masks hold 0 and 255 only: 0 is `%s`, 255 is `%s`", *classes.names)
        return replace(classes, raws=(0, 255))
    return replace(classes, raws=tuple(range(settings.first_value, settings.first_value + count)))


def _index_space(classes: Classes, settings: LabelSettings) -> LabelSpace:
    assert classes.raws is not None
    palette = classes.palette or default_palette(classes.names)
    void = settings.ignore_index in classes.raws and len(classes.names) > 2
    kept = [i for i, raw in enumerate(classes.raws) if not (void and raw == settings.ignore_index)]
    ignored = (*settings.ignored_values, *classes.ignored, settings.ignore_index)
    table = dict.fromkeys((raw for raw in ignored if raw >= 0), settings.ignore_index)
    table |= {
        classes.raws[old]: new for new, old in enumerate(kept) if classes.raws[old] not in settings.ignored_values
    }
    names = tuple(classes.names[i] for i in kept)
    return LabelSpace(names, tuple(palette[i] for i in kept), table, ignore_index=settings.ignore_index)


def _colored_space(classes: Classes, *, ignore_index: int) -> LabelSpace:
    """Number the classes of a colour table; the colours of `ignore` and `void` are ignored."""
    assert classes.palette is not None
    ignored = [name for name in classes.names if name.lower() in IGNORE_NAMES]
    kept = [name for name in classes.names if name not in ignored]
    raw = {name: place for place, name in enumerate([*kept, *ignored])}
    table = {raw[name]: ignore_index if name in ignored else raw[name] for name in classes.names}
    colors = {color: raw[name] for name, color in zip(classes.names, classes.palette, strict=True)}
    palette = tuple(color for name, color in zip(classes.names, classes.palette, strict=True) if name not in ignored)
    return LabelSpace(tuple(kept), palette, table, colors=colors, ignore_index=ignore_index)


def _with_found_colors(classes: Classes, records: Callable[[], Iterable[Record]]) -> Classes:
    """Read painted masks by the palette that stands beside the class names, if there is one."""
    if classes.palette is None or classes.is_color_table or not any(map(is_colored, islice(records(), _LOOKED_AT))):
        return classes
    log.info("the masks are RGB images: read by the palette of %s", classes.origin)
    return from_colors(dict(zip(classes.names, classes.palette, strict=True)), origin=f"`{classes.origin}`")


def _beside(text: str, data_dir: Path | None) -> Path:
    """Find a file by its path, or by its path inside the data folder."""
    inside = None if data_dir is None else data_dir / text
    return inside if inside is not None and not Path(text).exists() and inside.exists() else Path(text)


_NAME_THEM = "name them: --set 'data.classes=[road, car]'; a single name means that object against `background`"
