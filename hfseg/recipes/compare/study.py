"""A study: the same recipe, data and seeds for several members, as one value; and its folder."""

import itertools
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, model_validator

from hfseg.config import Config, differences, leaves, put
from hfseg.errors import DataError
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.training import idle_clip_settings

Settings = dict[str, Any]
"""Settings of a run that differ from those below them: nested, or by dotted key."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w+-]*$")]
"""A name that is a folder's too; without dots, which separate keys."""

FULL = "full"
"""The scale at which nothing is changed."""
FREE_DATA = frozenset({"data.data_dir", "data.rare_class_crop", "data.frame_step"})
"""Settings of the data in which members may differ: whether images and labels are the same is seen from the counts."""


class ScaleConfig(Config):
    """A form of a study, such as one that fits a small machine."""

    base: Settings = Field(default={})
    """Settings of every member, over those of the study and below the member's own."""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """Seeds in the place of the study's."""
    members: tuple[Name, ...] | None = None
    """The members that take part; all where it is not given."""


class StudyConfig(Config):
    """Members that are trained alike but for what makes them members."""

    base: Settings = Field(default={})
    """Settings of every member, over the defaults of a run: data, augmentation, length, optimizer."""
    members: dict[Name, Settings] = Field(default={})
    """Members by name, each with the settings that make it differ."""
    axes: dict[Name, dict[Name, Settings]] = Field(default={})
    """More members: every combination of one choice from each axis, named `CHOICE-CHOICE`."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """Every member is trained once with each of them."""
    scale: str = FULL
    """Which of `scales` is run; `full` is the study as it stands."""
    scales: dict[Name, ScaleConfig] = Field(default={})
    """Other forms of the study, by name."""

    @model_validator(mode="after")
    def _known(self) -> "StudyConfig":
        if self.scale not in (FULL, *self.scales):
            known = ", ".join((FULL, *self.scales))
            raise ValueError(f"there is no scale `{self.scale}`\n\nhint: `study.scale` can be {known}")
        twice = set(self.members) & {name for name, _ in self._crossed()}
        if twice:
            raise ValueError(
                f"`{min(twice)}` is both a member and a combination of the axes\n\nhint: rename the member"
            )
        strangers = set(self.at_scale.members or ()) - set(self.all_members())
        if strangers:
            raise ValueError(f"scale `{self.scale}` has a member `{min(strangers)}`, which the study has not")
        return self

    @property
    def at_scale(self) -> ScaleConfig:
        """What the chosen scale changes."""
        return self.scales.get(self.scale, ScaleConfig())

    def all_members(self) -> dict[str, list[Settings]]:
        """Give what is laid over the base for every member, one after the other, whatever the scale."""
        return {name: [settings] for name, settings in self.members.items()} | dict(self._crossed())

    def _crossed(self) -> Iterator[tuple[str, list[Settings]]]:
        for choices in itertools.product(*(axis.items() for axis in self.axes.values())) if self.axes else ():
            yield "-".join(name for name, _ in choices), [settings for _, settings in choices]

    def runs(self, folder: Path) -> list["PlannedRun"]:
        """Resolve every run below `folder`: all members with one seed before the next, so that a part is fair too.

        Raises:
            ConfigError: the settings of a member make no run; names it.
        """
        scale = self.at_scale
        members = {n: layers for n, layers in self.all_members().items() if n in (scale.members or self.all_members())}
        return [
            PlannedRun(name, seed, folder / f"{name}-{seed}", self._resolve(name, layers, seed, folder))
            for seed in scale.seeds or self.seeds
            for name, layers in members.items()
        ]

    def _resolve(self, name: str, layers: list[Settings], seed: int, folder: Path) -> FinetuneConfig:
        tree: Settings = {}
        own = {"seed": seed, "output": str(folder / f"{name}-{seed}")}
        for layer in (self.base, self.at_scale.base, *layers, own):
            for key, value in layer.items():
                put(tree, key, deepcopy(value))
        config = FinetuneConfig.load(flags=tree, flag_names=dict.fromkeys(tree, f"member `{name}`"))
        asked = {key for layer in layers for key, _ in leaves(layer)}
        shared = {key: value for key, value in idle_clip_settings(config).items() if key not in asked}
        if not shared:
            return config
        for key, value in shared.items():  # what members with memory share means nothing to those of single images
            put(tree, key, value)
        return FinetuneConfig.load(flags=tree)


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run of a study: a member with one seed."""

    member: str
    seed: int
    folder: Path
    config: FinetuneConfig

    @property
    def name(self) -> str:
        """Name it among the runs of the study."""
        return f"{self.member}-{self.seed}"


def runs_in(folders: tuple[Path, ...]) -> list[PlannedRun]:
    """Read the settings of runs that are there; those that differ in the seed alone are one member.

    Raises:
        DataError: a folder is no run, or two runs are the same one.
    """
    groups: dict[str, list[tuple[Path, FinetuneConfig]]] = {}
    for path in folders:
        if not (path / "config.yaml").is_file():
            hint = "give folders that `hfseg finetune` wrote"
            raise DataError(f"`{path}` is no run: `config.yaml` is missing", hint=hint)
        config = RunFolder(path).settings()
        alike = config.model_copy(update={"seed": 0, "output": Path()}).model_dump_json()
        groups.setdefault(alike, []).append((path, config))
    planned = [
        PlannedRun(name, config.seed, path, config)
        for name, group in _named(list(groups.values()))
        for path, config in group
    ]
    doubled = [run for run, next_one in itertools.pairwise(sorted(planned, key=_key)) if _key(run) == _key(next_one)]
    if doubled:
        raise DataError(f"`{doubled[0].folder}` was given twice, or another run with its settings and seed")
    return planned


def _named(groups: list[list[tuple[Path, FinetuneConfig]]]) -> Iterator[tuple[str, list[tuple[Path, FinetuneConfig]]]]:
    """Name members after the folders of their runs, without the seed where there are several; numbered if the same."""
    taken: set[str] = set()
    for group in groups:
        path, config = group[0]
        base = path.resolve().name.removesuffix(f"-{config.seed}" if len(group) > 1 else "\0").replace(".", "_")
        numbered = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
        name = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(name)
        yield name, group


def _key(run: PlannedRun) -> tuple[str, int]:
    return run.member, run.seed


def check_comparable(runs: list[PlannedRun], *, ignore_protocol: bool) -> None:
    """Refuse members that would be scored on different data or shown images in different ways.

    Raises:
        DataError: two members differ in that; says how.
    """
    first = runs[0]
    for run in runs[1:]:
        pairs = {"data": (first.config.data, run.config.data)}
        if not ignore_protocol:
            pairs["protocol"] = (first.config.protocol, run.config.protocol)  # type: ignore[assignment]
        for what, (ours, theirs) in pairs.items():
            found = {f"{what}.{key}": pair for key, pair in differences(ours, theirs).items()}
            changed = {key: pair for key, pair in found.items() if key not in FREE_DATA}
            if changed:
                listed = ", ".join(f"`{key}` is {one!r} and {other!r}" for key, (one, other) in changed.items())
                raise DataError(
                    f"members `{first.member}` and `{run.member}` cannot be compared: {listed}",
                    hint="one protocol for all: --protocol, --short-side"
                    if what == "protocol"
                    else "scores on other images or other classes say nothing about models",
                )


def differing_settings(runs: list[PlannedRun]) -> dict[str, dict[str, Any]]:
    """Name for every member the settings in which members differ, by dotted key; what belongs to a run is left out."""
    trees = {run.member: dict(leaves(run.config.model_dump(mode="json"))) for run in reversed(runs)}
    keys = dict.fromkeys(key for tree in reversed(trees.values()) for key in tree if key not in ("seed", "output"))
    values = {key: [tree.get(key) for tree in trees.values()] for key in keys}
    differ = [key for key in keys if any(value != values[key][0] for value in values[key])]
    return {name: {key: tree[key] for key in differ if key in tree} for name, tree in trees.items()}
