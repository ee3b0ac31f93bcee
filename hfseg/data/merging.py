"""Merging the classes of a data set into fewer, as its settings or a YAML file say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hfseg.data.official import ASSETS_DIR
from hfseg.errors import DataError
from hfseg.labels import IGNORE, Color, LabelSpace

Merge = dict[str, list[str]] | str
"""New class -> members, or where a YAML file holds that."""
REST = "*"
"""The member that stands for every class that no group names."""


def merged(space: LabelSpace, merge: Merge | None) -> LabelSpace:
    """Merge the classes of `space`, or leave them as they are.

    Each group's name stands for its members. The member `*` takes every class that no group names; the group `ignore`
    makes its members ignored. A group takes the colour that the file gives it, or that of its first class.

    A file holds `merge: {group: [members]}`, and may hold `palette: {group: [r, g, b]}`.

    Raises:
        DataError: the file cannot be read or is of another form; a member is unknown, stands in two groups, or a class
            is in no group.
    """
    if merge is None:
        return space
    groups, colors = _read(merge) if isinstance(merge, str) else (merge, {})
    return _grouped(space, groups, colors)


def _grouped(space: LabelSpace, groups: Mapping[str, Sequence[str]], colors: Mapping[str, Color]) -> LabelSpace:
    group_of = _assigned(space.names, groups)
    kept = [name for name in groups if name != IGNORE]
    new_id = {name: index for index, name in enumerate(kept)}
    target = [new_id.get(group_of[name], space.ignore_index) for name in space.names]
    firsts = {group: space.palette[target.index(label)] for group, label in new_id.items()}
    table = {raw: space.ignore_index if old == space.ignore_index else target[old] for raw, old in space.table.items()}
    palette = tuple(colors.get(group, first) for group, first in firsts.items())
    return replace(space, names=tuple(kept), palette=palette, table=table)


def _assigned(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find the group of each class."""
    group_of: dict[str, str] = {}
    rest = [group for group, members in groups.items() if REST in members]
    for group, members in groups.items():
        for member in members:
            if member != REST and member not in names:
                raise DataError(
                    f"merge group `{group}` names an unknown class: got `{member}`",
                    hint=f"the classes are {', '.join(names)}",
                )
            if group_of.setdefault(member, group) != group:
                raise DataError(f"class `{member}` stands in two merge groups: `{group_of[member]}` and `{group}`")
    left = [name for name in names if name not in group_of]
    if left and not rest:
        raise DataError(
            f"no merge group holds {', '.join(f'`{name}`' for name in left[:5])}: {len(left)} are left over",
            hint=f'name them, or give one group the member "{REST}" to take the rest (the group `{IGNORE}` ignores)',
        )
    for name in left:
        group_of[name] = rest[0]
    empty = [group for group in groups if group != IGNORE and group not in {group_of[name] for name in names}]
    if empty:
        raise DataError(f"merge group `{empty[0]}` has no classes")
    return group_of


def _read(text: str) -> tuple[dict[str, list[str]], dict[str, Color]]:
    packaged = ASSETS_DIR / f"{text}.yaml"
    path = packaged if packaged.is_file() and not Path(text).is_file() else Path(text)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        hint = f"give the path of a YAML file, or one of {', '.join(packaged_merges())}"
        raise DataError(f"merge file `{text}` cannot be read: {reason}", hint=hint) from None
    if not isinstance(tree, dict) or "merge" not in tree or tree.keys() - {"merge", "palette"}:
        keys = f"the keys {', '.join(map(str, tree))}" if isinstance(tree, dict) else type(tree).__name__
        raise DataError(f"merge file `{text}` holds {keys}: expected `merge`, and `palette` if wanted", hint=_FORM)
    groups, palette = tree["merge"], tree.get("palette", {})
    for key, part in (("merge", groups), ("palette", palette)):
        if not isinstance(part, dict) or not all(isinstance(value, list) for value in part.values()):
            raise DataError(f"merge file `{text}`: `{key}` is not a mapping of lists", hint=_FORM)
    members = {str(group): [str(member) for member in members] for group, members in groups.items()}
    return members, {str(group): _color(text, str(group), color, members) for group, color in palette.items()}


def packaged_merges() -> list[str]:
    """Name the merges that come with the package."""
    paths = sorted(ASSETS_DIR.glob("*.yaml"))
    return [path.stem for path in paths if "\nmerge:" in path.read_text(encoding="utf-8")]


def _color(text: str, group: str, color: list[Any], groups: Mapping[str, Any]) -> Color:
    if group not in groups:
        known = f"the groups are {', '.join(groups)}"
        raise DataError(f"merge file `{text}`: `palette` names an unknown group: got `{group}`", hint=known)
    if len(color) != 3 or not all(isinstance(channel, int) and 0 <= channel <= 255 for channel in color):
        raise DataError(
            f"merge file `{text}`: the colour of `{group}` is {color}: expected three numbers from 0 to 255"
        )
    return color[0], color[1], color[2]


_FORM = 'such as merge: {plant: [tree, grass], background: ["*"]}, and palette: {plant: [4, 200, 3]}'
