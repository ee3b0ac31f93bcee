"""What a run folder holds, read once into one immutable value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hfseg.errors import CheckpointError
from hfseg.viz.explained import Explanation, read_explanations

Record = Mapping[str, Any]
"""One line of `log.jsonl`."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; `metrics` and `parameters` are None where they have not been written yet."""

    directory: Path
    config_text: str
    env: Mapping[str, Any]
    records: tuple[Record, ...]
    """The log as one line of time: what a resumed run did again is there once."""
    metrics: Mapping[str, Any] | None
    parameters: tuple[Mapping[str, Any], ...] | None
    pictures: tuple[Path, ...]
    """`predictions/*-side.jpg`, sorted by name."""
    worst: tuple[Path, ...] = ()
    """`worst/*.jpg`, the worst first."""
    explanations: tuple[Explanation, ...] = ()
    """What `explain/pictures.json` lists."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.directory.resolve().name

    @cached_property
    def train(self) -> tuple[Record, ...]:
        """The records of training steps."""
        return events(self.records, "train")

    @cached_property
    def validations(self) -> tuple[Record, ...]:
        """The records of validations."""
        return events(self.records, "validation")


def events(records: tuple[Record, ...] | list[Record], event: str) -> tuple[Record, ...]:
    """Pick the records of one kind of event."""
    return tuple(record for record in records if record["event"] == event)


def best_validation(validations: tuple[Record, ...] | list[Record]) -> Record:
    """Pick the validation of the highest mIoU, the first of several equal ones."""
    return max(validations, key=lambda record: -1.0 if record["mean_iou"] is None else record["mean_iou"])


def read_run(run_dir: Path) -> RunFolder:
    """Read a run folder, also one of a run that is under way or was killed.

    Raises:
        CheckpointError: the folder, its config, environment or log is missing, or a file is damaged; says which.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"run folder `{run_dir}` does not exist", hint="give the folder that --output named")
    return RunFolder(
        directory=run_dir,
        config_text=_text(run_dir / "config.yaml"),
        env=_json(run_dir / "env.json"),
        records=one_timeline(parse_log(_text(run_dir / "log.jsonl"), run_dir / "log.jsonl")),
        metrics=_json(run_dir / "metrics.json") if (run_dir / "metrics.json").exists() else None,
        parameters=tuple(_json(run_dir / "parameters.json")) if (run_dir / "parameters.json").exists() else None,
        pictures=tuple(sorted((run_dir / "predictions").glob("*-side.jpg"))),
        worst=tuple(sorted((run_dir / "worst").glob("*.jpg"))),
        explanations=read_explanations(run_dir / "explain"),
    )


def parse_log(text: str, path: Path) -> list[Record]:
    """Read one JSON object a line; a last line that was cut off while it was written is left out.

    Raises:
        CheckpointError: another line is not a JSON object with an `event`; names the line.
    """
    records: list[Record] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise CheckpointError(f"log `{path}` is damaged in line {number}: expected a JSON object") from None
        if not isinstance(record, dict) or "event" not in record:
            raise CheckpointError(f"log `{path}`, line {number}: expected an object with `event`: got {line[:60]!r}")
        records.append(record)
    return records


def one_timeline(records: list[Record]) -> tuple[Record, ...]:
    """Leave out the steps that a resumed run did again: those logged before the resume and beyond its step."""
    kept: list[Record] = []
    for record in records:
        if record["event"] == "resume":
            kept = [earlier for earlier in kept if earlier["event"] == "resume" or earlier["step"] <= record["step"]]
        kept.append(record)
    return tuple(kept)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(
            f"run folder `{path.parent}` has no readable `{path.name}`: {error.strerror or error}",
            hint="give the folder of a run that `hfseg finetune` has started",
        ) from None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"`{path}` is not JSON (line {error.lineno}): {error.msg}") from None
