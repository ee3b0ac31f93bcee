"""What `hfseg check` found, as values and as text."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hfseg.data import StreamDataset
from hfseg.data.census import Census
from hfseg.data.duplicates import Overlap, Prints
from hfseg.data.verify import Findings, Problem
from hfseg.engine.dry_run import TIMED_STEPS, DryRun, Estimate, estimate
from hfseg.engine.groups import Group
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.recipes.check.advice import Advice
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.scoring import AnyDataset
from hfseg.viz.check import check_text


@dataclass(frozen=True)
class Part:
    """What was found out about one part of the data set."""

    dataset: AnyDataset
    findings: Findings | None = None
    """None for a stream, which is not read as a whole."""
    census: Census | None = None
    prints: Prints | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that keeps samples from being used; what the header showed already is not told twice."""
        found = () if self.findings is None else self.findings.problems
        seen = {(problem.index, problem.file) for problem in found}
        broken = () if self.prints is None else self.prints.problems
        return (*found, *(problem for problem in broken if (problem.index, problem.file) not in seen))

    @property
    def broken(self) -> frozenset[int]:
        """The numbers of the samples that cannot be used."""
        return frozenset(problem.index for problem in self.problems)

    def usable(self) -> AnyDataset:
        """The samples without a problem."""
        broken = self.broken
        if isinstance(self.dataset, StreamDataset) or not broken:
            return self.dataset
        return self.dataset.select([index for index in range(len(self.dataset)) if index not in broken])


@dataclass(frozen=True)
class Trial:
    """A dry run and what follows from it."""

    run: DryRun
    cost: Estimate
    facts: Mapping[str, Any]
    assumptions: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    """Of the optimizer, where learning rates differ by depth."""

    @classmethod
    def of(
        cls,
        run: DryRun,
        plan: Plan,
        config: FinetuneConfig,
        runtime: Runtime,
        *,
        validation: int | None,
        tried: int | None,
        groups: tuple[Group, ...] = (),
    ) -> "Trial":
        """Extend a dry run, which `tried` some of the `validation` images, to the whole run."""
        images, workers = config.loader.batch_size, config.loader.workers
        share = 1.0 if validation is None or tried is None else tried / validation
        is_overlapped = runtime.device.type != "cpu" and workers > 0
        facts = {
            "device": str(runtime.device),
            "images": images * config.train.accumulation,
            "timed_steps": TIMED_STEPS,
            "loader_images_per_s": images / run.batch_s,
            "workers": workers,
            "validation_images": tried,
        }
        cost = estimate(run, plan, validation_share=share, is_overlapped=is_overlapped)
        assumptions = tuple(_assumptions(config, is_overlapped=is_overlapped, validation=validation))
        return cls(run, cost, facts, assumptions, groups)


@dataclass(frozen=True)
class CheckResult:
    """What was found: `problems` stop a run or belie it, `warnings` are worth a thought."""

    parts: Mapping[str, Part]
    absent: Mapping[str, str]
    """Parts that are not needed and cannot be opened -> why."""
    overlaps: tuple[Overlap, ...]
    trial: Trial | None
    problems: tuple[Mapping[str, Any], ...]
    warnings: tuple[Advice, ...]
    env: Mapping[str, str]
    samples: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Write everything as plain values."""
        trial = self.trial
        return {
            "ok": not self.problems,
            "parts": {
                **{name: _part_dict(part) for name, part in self.parts.items()},
                **{name: {"reason": reason} for name, reason in self.absent.items()},
            },
            "groups": [] if trial is None else [asdict(group) for group in trial.groups],
            "overlaps": [self._overlap_dict(overlap) for overlap in self.overlaps],
            "dry_run": None if trial is None else {**asdict(trial.run), **trial.facts},
            "estimate": None
            if trial is None
            else {**asdict(trial.cost), "total_s": trial.cost.total_s, "assumptions": list(trial.assumptions)},
            "problems": [dict(problem) for problem in self.problems],
            "warnings": [asdict(warning) for warning in self.warnings],
            "samples": None if self.samples is None else str(self.samples),
            "env": dict(self.env),
        }

    def to_text(self) -> str:
        """Write the result for a person."""
        return check_text(self.to_dict())

    def _overlap_dict(self, overlap: Overlap) -> dict[str, Any]:
        prints = self.parts[overlap.part].prints
        assert prints is not None
        return {
            "part": overlap.part,
            "among": overlap.among,
            "images": overlap.num_images,
            "same_files": overlap.num_same_files,
            "plain": prints.num_plain,
            "twins": [asdict(twin) for twin in overlap.twins],
        }


def length(dataset: AnyDataset) -> int | None:
    """Count the samples; None for a stream."""
    return None if isinstance(dataset, StreamDataset) else len(dataset)


def _assumptions(config: FinetuneConfig, *, is_overlapped: bool, validation: int | None) -> Iterator[str]:
    if is_overlapped:
        yield "the slower of loader and device sets the pace"
    else:
        yield "reading and computing share the cores, so that their times add up"
    yield "nothing else uses this machine; the start, checkpoints and pictures are not counted"
    if validation is None:
        yield "the length of the validation stream is not known: the first images stand for all of it"
    else:
        yield f"the {validation} validation images take as long as those that were tried, one by one"
    if config.freeze.steps:
        yield f"as much is trained from the first step as will be from step {config.freeze.steps[-1]} on"
    if config.runtime.sharding != "none":
        yield "weights are whole here; sharded, they take less memory in each process and more time in each step"
    if config.runtime.compile:
        yield "compiling fell into the warm-up and is not counted"


def _part_dict(part: Part) -> dict[str, Any]:
    found = part.census
    if found is None:
        return {"reason": f"`{part.dataset.name}` is streamed: it is not read as a whole"}
    sizes = [{"height": size[0], "width": size[1], "images": images} for size, images in found.sizes.items()]
    plain = asdict(replace(found, sizes={}))  # JSON has no pairs as keys
    return {**plain, "unusable": len(part.broken), "sizes": sizes, "absent": list(found.absent)}
