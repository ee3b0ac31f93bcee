"""`hfseg check`: looks at data and settings before a run: what is wrong, what to think about, and what it will cost."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hfseg.data import Split, StreamDataset
from hfseg.data.census import census
from hfseg.data.duplicates import find_overlaps, take_prints
from hfseg.data.verify import inspect
from hfseg.engine.checkpoint import write_file
from hfseg.engine.dry_run import dry_run
from hfseg.engine.environment import environment
from hfseg.engine.groups import describe_groups
from hfseg.engine.runtime import Runtime
from hfseg.engine.task import Task
from hfseg.errors import ConfigError, DataError, HfsegError, LaunchError, ModelError
from hfseg.recipes.check import advice
from hfseg.recipes.check.advice import Advice
from hfseg.recipes.check.result import CheckResult, Part, Trial, length
from hfseg.recipes.console import progress
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.scoring import AnyDataset
from hfseg.recipes.training import (
    batches_per_epoch,
    build_model,
    check_clips,
    check_sharding,
    make_task,
    memory_frames,
)
from hfseg.viz.grid import Labelled, grid

SAMPLES = 12
PARTS: tuple[Split, ...] = get_args(Split)
TRIED_BATCHES = 8
"""Training batches on which the loader is timed, or four times its workers."""
RESULT, GRID = "check.json", "samples.png"


@dataclass
class _Notes:
    """What is gathered on the way, so that it is told even where the way ends early."""

    problems: list[Mapping[str, Any]] = field(default_factory=list)
    warnings: list[Advice] = field(default_factory=list)
    pictures: list[Labelled] = field(default_factory=list)

    def add(self, part: str, kind: str, error: HfsegError) -> None:
        """Note an error, unless the same has been noted: parts that are cut from one folder fail alike."""
        if all(problem["message"] != error.message for problem in self.problems):
            self.problems.append({"part": part, "kind": kind, "message": error.message, "hint": error.hint})


def run(config: FinetuneConfig, *, output: Path | None = None, samples: int = SAMPLES) -> CheckResult:
    """Look at every file, compare the parts, and try a few steps; write nothing but `output`, if it is given.

    `output` gets `check.json` and `samples.png`: the first `samples` augmented training samples. What is wrong with the
    data, the model or the length of the run stands in the result.

    Raises:
        ConfigError: `output` exists already.
        LaunchError: several processes run, or the precision is not there.
    """
    _check_output(output)
    runtime, notes = config.runtime.model_copy(update={"sharding": "none"}).start(), _Notes()
    if runtime.world_size > 1:
        raise LaunchError(f"a check is made by one process: got {runtime.world_size}", hint="start it without launcher")
    opened, absent = _open(config, notes)
    parts = {name: _look(dataset, name, config.loader.workers) for name, dataset in opened.items()}
    notes.problems += [{"part": name, **asdict(found)} for name, part in parts.items() for found in part.problems]
    overlaps = find_overlaps({name: part.prints for name, part in parts.items() if part.prints is not None})
    notes.warnings += advice.about_overlaps(overlaps)
    censuses = {name: part.census for name, part in parts.items() if part.census is not None}
    notes.warnings += [*advice.about_classes(censuses), *advice.about_sizes(censuses, config.augment)]
    trial = _try(config, parts, runtime, notes, samples=0 if output is None else samples)
    drawn = output / GRID if output is not None and notes.pictures else None
    problems, warnings = tuple(notes.problems), tuple(notes.warnings)
    result = CheckResult(parts, absent, overlaps, trial, problems, warnings, environment(runtime), drawn)
    if output is not None:
        _write(result, output, notes.pictures)
    return result


def _check_output(output: Path | None) -> None:
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"output `{output}` exists already", hint="give another --output; nothing is overwritten")


def _open(config: FinetuneConfig, notes: _Notes) -> tuple[dict[str, AnyDataset], dict[str, str]]:
    """Open every part, and say why there is no test part, which need not be there."""
    opened: dict[str, AnyDataset] = {}
    absent: dict[str, str] = {}
    for part in PARTS:
        try:
            check_clips(config)
            opened[part] = config.data.open(part).clips(memory_frames(config.model))
        except DataError as error:
            if part == "test":
                absent[part] = error.message
            else:
                notes.add(part, "files", error)
        except (ConfigError, ModelError) as error:
            notes.add("run", "clips", error)
    return opened, absent


def _look(dataset: AnyDataset, part: str, workers: int) -> Part:
    """Read all that a data set of known length holds."""
    if isinstance(dataset, StreamDataset):
        return Part(dataset)
    with progress(f"{part}: reading {len(dataset)} masks") as show:
        findings = inspect(dataset, workers=workers, progress=show)
    with progress(f"{part}: comparing {len(dataset)} images") as show:
        prints = take_prints(dataset, workers=workers, progress=show)
    return Part(dataset, findings, census(findings, dataset.labels), prints)


def _try(
    config: FinetuneConfig, parts: Mapping[str, Part], runtime: Runtime, notes: _Notes, *, samples: int
) -> Trial | None:
    """Make a few steps on the samples without problems; None where that cannot be done, and the reason is a problem."""
    if not {"train", "validation"} <= parts.keys():
        return None
    train, validation = parts["train"].usable(), parts["validation"].usable()
    few = _spread(validation, 2 * config.loader.eval_batch_size)
    try:
        check_sharding(config, runtime, is_rehearsal=True)
        if length(few) == 0:
            raise DataError("no validation image can be used: nothing was tried")
        per_epoch = batches_per_epoch(config, train, runtime)
        plan = config.train.plan(per_epoch)
        segmenter = build_model(config, train, runtime)
        notes.warnings += advice.about_length(config, plan, per_epoch, length(train))
        notes.warnings += advice.about_model(segmenter, config)
        task = make_task(config, segmenter, train, few, runtime)
        notes.pictures += _augmented(task, samples)
        with progress("trying a few steps"):
            tried = dry_run(
                task, plan, config.optim, runtime, num_batches=max(TRIED_BATCHES, 4 * config.loader.workers)
            )
    except HfsegError as error:
        notes.add("run", "dry run", error)
        return None
    groups = describe_groups(task.model, config.optim, depths=task.depths) if task.depths is not None else ()
    trial = Trial.of(tried, plan, config, runtime, validation=length(validation), tried=length(few), groups=groups)
    notes.warnings += advice.about_cost(trial.run, trial.cost, runtime)
    return trial


def _spread(dataset: AnyDataset, count: int) -> AnyDataset:
    """Take some samples from all over a data set, or the first of a stream."""
    if isinstance(dataset, StreamDataset):
        return replace(dataset, stream=dataset.stream.take(count))
    places = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return dataset.select(places.tolist())


def _augmented(task: Task, count: int) -> Iterator[Labelled]:
    """Give the first training samples as the model sees them."""
    batches = iter(task.batches(0)) if count else iter(())
    while count > 0:
        batch = task.augment(next(batches))
        images = (batch.images[:count] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        yield from zip(images, batch.labels[:count].numpy(), strict=True)
        count -= len(batch)


def _write(result: CheckResult, output: Path, pictures: list[Labelled]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if pictures:
        grid(pictures, result.parts["train"].dataset.labels).save(output / GRID)
    write_file(output / RESULT, json.dumps(result.to_dict(), indent=2))
