"""From what is known about the classes to the LabelSpace of a data set."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pydantic import NonNegativeInt, model_validator

from hfseg.data.classes import IGNORE_NAMES, Classes, find_classes, from_colors, read_classes
from hfseg.data.merging import merged
from hfseg.data.record import Record
from hfseg.data.scan import BLACK, binary_colors, binary_values, found_values, readable
from hfseg.data.settings import DatasetSettings
from hfseg.errors import DataError
from hfseg.labels import IGNORE_INDEX, Color, LabelSpace, default_palette

log = logging.getLogger(__name__)
BACKGROUND = "background"
_BINARY_NAMES = (BACKGROUND, "object")
_LOOKED_AT = 20
"""Masks that are looked at to tell colours from indices."""


class LabelSettings(DatasetSettings):
    """What a person says about the values of the masks."""

    classes: str | tuple[str, ...] | None = None
    """Class names in the order of their raw values, or the path of a .txt, .json, .yaml or .csv file that holds them.
    One name stands for that object and `background`. Without names, a file beside the data is looked for, then the
    masks are scanned."""
    colors: str | dict[str, Color] | None = None
    """Class name -> [r, g, b] of masks that are painted, or the path of a CSV file of name,r,g,b. The colours of
    `ignore` and `void` are ignored."""
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
        if "" in names:
            raise ValueError(f"`classes` holds an empty name: got {', '.join(f'`{name}`' for name in names)}")
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
    classes = _painted_classes(classes, records) or classes or _scanned_classes(settings, records)
    if classes.is_color_table:
        space = _colored_space(classes, ignore_index=settings.ignore_index)
    else:
        classes = _one_means_two(classes, settings.first_value)
        space = _index_space(_with_raws(classes, settings, records), settings)
    return merged(space, settings.merge)


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


def _scanned_classes(settings: LabelSettings, records: Callable[[], Iterable[Record]]) -> Classes:
    """Find the classes by their values in the masks."""
    values = found_values(records())
    binary = values in ({0, 1}, {0, 255}) or (values == {0, 1, 255} and settings.ignore_index == 255)
    raws = _binary(settings, records) if binary else None
    if raws is None:
        ignored = {*settings.ignored_values, settings.ignore_index}
        raws = tuple(sorted(value for value in values - ignored if value >= settings.first_value))
        names = tuple(f"class_{raw}" for raw in raws)
    else:
        names = _BINARY_NAMES
    if len(raws) < 2:
        raise DataError(
            f"the classes are not named anywhere, and the masks hold only the values {sorted(values)}", hint=_NAME_THEM
        )
    log.info("the classes are not named anywhere: %d found in the masks: %s", len(raws), ", ".join(names))
    return Classes(names, raws, origin="the masks")


def _binary(settings: LabelSettings, records: Callable[[], Iterable[Record]]) -> tuple[int, ...] | None:
    """The raw values of background and object where the masks hold no others and the settings do not say them."""
    return None if settings.first_value or 255 in settings.ignored_values else binary_values(records())


def _one_means_two(classes: Classes, first_value: int) -> Classes:
    """Read one name as that object and its background."""
    if len(classes.names) > 1 or classes.raws is not None:
        return classes
    color = classes.palette[0] if classes.palette else default_palette(("object",))[0]
    raws = (0, first_value) if first_value else None
    return replace(classes, names=(BACKGROUND, *classes.names), raws=raws, palette=((0, 0, 0), color))


def _with_raws(classes: Classes, settings: LabelSettings, records: Callable[[], Iterable[Record]]) -> Classes:
    """Give each class its raw value; two classes in binary masks have theirs."""
    if classes.raws is not None:
        return classes
    count = len(classes.names)
    raws = _binary(settings, records) if count == 2 else None
    if raws is None:
        return replace(classes, raws=tuple(range(settings.first_value, settings.first_value + count)))
    log.info("the masks are binary: 0 is `%s`, %d is `%s`", classes.names[0], raws[1], classes.names[1])
    return replace(classes, raws=raws)


def _index_space(classes: Classes, settings: LabelSettings) -> LabelSpace:
    assert classes.raws is not None
    palette = classes.palette or default_palette(classes.names)
    unused = {settings.ignore_index, *classes.ignored} if len(classes.names) > 2 else ()
    kept = [i for i, raw in enumerate(classes.raws) if raw not in unused]
    dropped = [i for i, raw in enumerate(classes.raws) if raw in unused]
    for name, raw in ((classes.names[i], classes.raws[i]) for i in dropped):
        if name.lower() not in IGNORE_NAMES:
            raise DataError(
                f"class `{name}` has the raw value {raw}, which is ignored (`ignore_index`)",
                hint="if it is a class, choose another: --set data.ignore_index=65535; if not, call it `ignore` or "
                "`void`",
            )
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


def _painted_classes(classes: Classes | None, records: Callable[[], Iterable[Record]]) -> Classes | None:
    """Read painted masks by the palette that stands beside the class names, or by two colours; None for other masks."""
    if classes is not None and (classes.is_color_table or (classes.palette is None and len(classes.names) > 2)):
        return None
    if classes is None or classes.palette is None or len(classes.names) == 1:
        return _two_colors(_BINARY_NAMES if classes is None else classes.names, binary_colors(records()))
    if not any(found.is_painted for _, found in readable(islice(records(), _LOOKED_AT))):
        return None
    log.info("the masks are RGB images: read by the palette of %s", classes.origin)
    return from_colors(dict(zip(classes.names, classes.palette, strict=True)), origin=f"`{classes.origin}`")


def _two_colors(names: tuple[str, ...], colors: tuple[Color, Color] | None) -> Classes | None:
    """Name the two colours of binary masks: black is the background, or the first of two names."""
    if colors is None:
        return None
    background, thing = names if len(names) == 2 else (BACKGROUND, *names)
    if colors[0] != BLACK:
        table = ", ".join(f"{name}: {[*color]}" for name, color in zip((background, thing), colors, strict=True))
        raise DataError(
            f"the masks are painted in the two colours {[*colors[0]]} and {[*colors[1]]}: which of them is `{thing}`?",
            hint=f"say which is which: --set 'data.colors={{{table}}}'",
        )
    log.info("the masks are binary: black is `%s`, %s is `%s`", background, [*colors[1]], thing)
    return from_colors({background: colors[0], thing: colors[1]}, origin="the masks")


def _beside(text: str, data_dir: Path | None) -> Path:
    """Find a file by its path, or by its path inside the data folder."""
    inside = None if data_dir is None else data_dir / text
    return inside if inside is not None and not Path(text).exists() and inside.exists() else Path(text)


_NAME_THEM = "name them: --set 'data.classes=[road, car]'; a single name means that object against `background`"
