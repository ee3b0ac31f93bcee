"""`hfseg compare`: the same recipe, data and seeds for several members, or finished runs; one table and one page."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, model_validator

from hfseg.config import Config
from hfseg.data import Split, pick_samples
from hfseg.engine.checkpoint import write_file
from hfseg.engine.cost import CostConfig
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.runtime import DeviceConfig
from hfseg.engine.stop import stop_on_signals
from hfseg.errors import CheckpointError, ConfigError, DataError, RunFailed
from hfseg.metrics import BootstrapConfig
from hfseg.recipes.compare.cost import Failures, measure, noise
from hfseg.recipes.compare.members import MemberProcesses, check_same
from hfseg.recipes.compare.opened import draw_predictions, trained, untrained
from hfseg.recipes.compare.standings import compared, unscored
from hfseg.recipes.compare.study import PlannedRun, StudyConfig, check_comparable, runs_in
from hfseg.recipes.console import say
from hfseg.viz import comparison_text, write_comparison

CONFIG = "study.yaml"


class CompareConfig(Config):
    """What is compared, on what, and where it is written."""

    study: StudyConfig = StudyConfig()
    runs: tuple[Path, ...] = ()
    """Folders of finished runs, beside the members of the study or in their place."""
    split: Literal["validation", "test"] | None = None
    """The part on which all are scored; test where the data has one with labels, else validation."""
    model: Literal["best-miou", "last"] = "best-miou"
    """Which model of a run is scored: that of the best validation, or the last one."""
    protocol: ProtocolConfig | None = None
    """How all models are shown images; the runs' own, which must be the same, where it is not given."""
    bootstrap: BootstrapConfig = BootstrapConfig(resamples=10_000)
    """How intervals are found; with many members the correction needs many resamples."""
    cost: CostConfig = CostConfig()
    costs_only: bool = False
    """Measure what members cost, from random weights: nothing is trained or scored, and images need not be there."""
    pictures: NonNegativeInt = 4
    """Images that all members predict for the page, spread evenly over the part."""
    launcher: str = ""
    """What starts the training of a member, as `accelerate launch --multi_gpu`; Python itself where it is empty."""
    output: Path = Path("runs/compare")
    """Folder of the study; it must not exist, unless the study is resumed."""
    runtime: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _something(self) -> "CompareConfig":
        if not self.runs and not self.study.all_members():
            raise ValueError(
                "there is nothing to compare: got no members and no runs\n\n"
                "hint: give --backbones a,b, --study FILE, or folders of runs"
            )
        if self.launcher and not self.study.all_members():
            raise ValueError("`launcher` has no effect on finished runs: there is nothing to train")
        if self.costs_only and (self.runs or self.launcher):
            what = "finished runs" if self.runs else "`launcher`"
            raise ValueError(
                f"`costs_only` trains and scores nothing: got {what} as well\n\nhint: leave out `costs_only`; costs "
                "stand beside scores in every comparison"
            )
        return self


@dataclass(frozen=True)
class Result:
    """What a comparison found, and whether members failed."""

    comparison: dict[str, Any]
    page: Path

    @property
    def has_failures(self) -> bool:
        """Whether a member could not be trained, scored or measured."""
        return any(member["error"] for member in self.comparison["members"])

    def to_text(self) -> str:
        """Write the table for a terminal, below the sentence that says which is best."""
        return comparison_text(self.comparison)


def run(config: CompareConfig, *, resume: bool = False) -> Result:
    """Train what is not trained yet, score all alike, measure what they cost, and write tables and a page.

    A member that fails is kept in the table with its error.

    Raises:
        HfsegError: a setting is not usable, or members cannot be compared; nothing has been trained then.
        RunFailed: no member is left to compare.
        RunInterrupted: a signal asked to stop; what was finished is kept.
    """
    planned = [*config.study.runs(config.output / "runs"), *runs_in(config.runs)]
    _check_names(planned)
    check_comparable(planned, ignore_protocol=config.protocol is not None)
    if config.costs_only and resume:
        raise ConfigError("`costs_only` begins nothing that could go on: got --resume", hint="give another --output")
    comparison = _costs(config, planned) if config.costs_only else _scores_and_costs(config, planned, resume=resume)
    write_file(config.output / "compare.json", json.dumps(comparison, indent=2))
    return Result(comparison, write_comparison(config.output))


def _scores_and_costs(config: CompareConfig, planned: list[PlannedRun], *, resume: bool) -> dict[str, Any]:
    """Train, score and measure."""
    split, why = _split(config, planned[0])
    for run in planned:
        check_same(run)
    _start(config, resume=resume)
    failures: Failures = {}
    with stop_on_signals() as wish:
        processes = MemberProcesses(config.output, config.launcher, wish)
        scored = dict(_trained_and_scored(config, planned, processes, split, failures))
    if not scored:
        raise RunFailed("no member is left to compare: " + "; ".join(f"`{n}`: {e}" for n, e in failures.items()))
    facts = {"model": config.model, "split": split, "split_reason": why}
    comparison = compared(planned, scored, failures, config.bootstrap) | facts
    return _with_costs(config, comparison, _first_runs(scored), split)


def _costs(config: CompareConfig, planned: list[PlannedRun]) -> dict[str, Any]:
    """Measure every member as it is before training."""
    data, augment = planned[0].config.data, planned[0].config.augment
    protocol, labels = config.protocol or planned[0].config.protocol, data.labels()
    _start(config, resume=False)
    runs = _first_runs(planned)
    models = {name: partial(untrained, run.config, labels) for name, run in runs.items()}
    say(f"measuring {len(models)} models with random weights")
    image = noise(config.cost.noise_size or augment.crop)
    found = measure(models, protocol, image, config.cost, config.runtime.start())
    if not found.opened:
        raise RunFailed("no member could be measured: " + "; ".join(f"`{n}`: {e}" for n, e in found.failures.items()))
    return unscored(planned, found) | {"data": {"kind": data.kind}, "protocol": protocol.to_text()}


def _first_runs(runs: Iterable[PlannedRun]) -> dict[str, PlannedRun]:
    """Give the first run of every member."""
    first: dict[str, PlannedRun] = {}
    for run in runs:
        first.setdefault(run.member, run)
    return first


def _check_names(planned: list[PlannedRun]) -> None:
    folders: dict[str, Path] = {}
    for run in planned:
        if folders.setdefault(run.name, run.folder) != run.folder:
            raise DataError(f"`{folders[run.name]}` and `{run.folder}` are both called `{run.name}`", hint="rename one")


def _start(config: CompareConfig, *, resume: bool) -> None:
    """Make the folder of the study.

    Raises:
        CheckpointError: something is in the way.
    """
    if not resume and config.output.exists() and any(config.output.iterdir()):
        raise CheckpointError(
            f"output `{config.output}` exists already",
            hint="go on with the study in it by --resume, or give another --output; a run is never overwritten",
        )
    config.output.mkdir(parents=True, exist_ok=True)
    write_file(config.output / CONFIG, config.to_yaml())


def _split(config: CompareConfig, first: PlannedRun) -> tuple[Split, str]:
    """Choose the part on which all are scored, and say what it means for the scores.

    Raises:
        DataError: the data is not where it was said to be, or has no such part.
    """
    split = config.split
    first.config.data.open(split or "validation")
    if split is None:
        try:
            first.config.data.open("test")
        except DataError:
            split = "validation"
        else:
            split = "test"
    if split == "test":
        return split, "no model was chosen on these images"
    chosen = "each run's model was chosen on these images, which flatters all of them, noisy runs most"
    return split, "the last model of each run, none chosen on these images" if config.model == "last" else chosen


def _trained_and_scored(
    config: CompareConfig, planned: list[PlannedRun], processes: MemberProcesses, split: str, failures: Failures
) -> Iterable[tuple[PlannedRun, Path]]:
    """Give each run and the folder of its scores; what fails is noted under the run's name."""
    own = len(planned) - len(config.runs)
    for number, run in enumerate(planned, start=1):
        say(f"[{number}/{len(planned)}] {run.member}, seed {run.seed}")
        try:
            if number <= own:
                processes.train(run)
            yield run, processes.score(run, model=config.model, split=split, protocol=config.protocol)
        except RunFailed as error:
            failures[run.name] = error.message
            say(f"  failed: {error.message}{f' ({error.hint})' if error.hint else ''}")


def _with_costs(
    config: CompareConfig, comparison: dict[str, Any], runs: Mapping[str, PlannedRun], split: Split
) -> dict[str, Any]:
    """Add what each member costs, measured on its first run, and what it predicts."""
    runtime = config.runtime.start()
    own = next(iter(runs.values())).config
    protocol, dataset, size = config.protocol or own.protocol, own.data.open(split), config.cost.noise_size
    image = next(iter(pick_samples(dataset, 1))).image if size is None else noise(size)
    models = {name: partial(trained, run.folder / config.model) for name, run in runs.items()}
    say(f"measuring {len(models)} models")
    found = measure(models, protocol, image, config.cost, runtime)
    clips = dataset.clips(max((model.memory_frames for model in found.opened.values()), default=0))
    samples = pick_samples(clips, config.pictures)
    shown = draw_predictions(found.opened, samples, config.output / "pictures", dataset.labels)
    members = [
        {**member, **found.costs.get(member["name"], {})}
        | ({"error": found.failures[member["name"]]} if member["name"] in found.failures else {})
        for member in comparison["members"]
    ]
    return {**comparison, "members": members, "cost": found.conditions, "pictures": shown}
