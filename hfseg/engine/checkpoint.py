"""Checkpoints that are whole or not there: written aside, synced, renamed, and checked when they are read."""

import errno
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfseg.errors import CheckpointError, RunFailed
from hfseg.files import sync

_MANIFEST = "manifest.json"
_AVERAGE = "average.safetensors"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on as if it had never stopped.

    The learning rate, the data order and every random draw are functions of the seed and the step, so none of them
    has a state of its own.
    """

    step: int
    """Optimizer steps that are done."""
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    """The fp16 gradient scaler's state."""
    best: dict[str, float]
    """Best validation scores so far, by name."""
    log_bytes: int
    """Length of `log.jsonl` when the state was taken."""
    average: dict[str, Tensor] | None = None
    """The moving average of the weights, where the run keeps one."""
    stale: int = 0
    """Validations since the last one that was the best by mIoU."""


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int) -> Path:
    """Write `folder/step-NNNNNN`, then delete all but the newest `keep` checkpoints.

    Raises:
        RunFailed: the disk is full or cannot be written; the checkpoints before stay whole.
    """
    target = folder / f"step-{state.step:06d}"

    def write(directory: Path) -> None:
        save_file(_on_host(state.model), directory / "model.safetensors")
        save_file(_flat(state.optimizer["state"]), directory / "optimizer.safetensors")
        if state.average is not None:
            save_file(_on_host(state.average), directory / _AVERAGE)
        facts = {
            "step": state.step,
            "best": state.best,
            "log_bytes": state.log_bytes,
            "stale": state.stale,
            "param_groups": state.optimizer["param_groups"],
            "scaler": state.scaler,
        }
        (directory / "state.json").write_text(json.dumps(facts))
        sums = {path.name: _checksum(path) for path in sorted(directory.iterdir())}
        (directory / _MANIFEST).write_text(json.dumps(sums))

    try:
        replace_folder(target, write)
    except OSError as error:
        before = next(iter(newest_first(folder)), None)
        kept = f"`{before}` is whole" if before else "there was none before it"
        raise RunFailed(
            f"checkpoint `{target}` cannot be written: {_reason(error)}; {kept}",
            hint="make room, then go on with --resume",
        ) from None
    for old in list(newest_first(folder))[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(folder: Path, *, warn: Callable[[str], None]) -> TrainingState | None:
    """Read the newest checkpoint that is whole; None where a run has none yet.

    A checkpoint that is damaged is named through `warn` and the one before it is tried.

    Raises:
        CheckpointError: there are checkpoints and every one of them is damaged.
    """
    damaged = []
    for directory in newest_first(folder):
        try:
            return _load(directory)
        except CheckpointError as error:
            warn(error.message)
            damaged.append(directory.name)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in `{folder}` can be read: {', '.join(damaged)} are damaged",
            hint="delete the checkpoints folder to start the run from its beginning",
        )
    return None


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `target` in one rename.

    The content is synced to the disk before the rename. A folder that was at `target` is there until its successor
    is complete.

    Raises:
        OSError: the disk is full or cannot be written; `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, stale = (target.with_name(f".{target.name}.{mark}") for mark in ("new", "old"))
    if stale.exists() and not target.exists():  # stopped between the two renames
        stale.rename(target)
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        write(fresh)
        for path in (*fresh.rglob("*"), fresh):
            sync(path)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, SafetensorError):  # how safetensors reports a full disk
            raise OSError(errno.ENOSPC, str(error)) from None
        raise
    if target.exists():
        target.rename(stale)
    fresh.rename(target)
    sync(target.parent)
    shutil.rmtree(stale, ignore_errors=True)


def write_file(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)


def _load(directory: Path) -> TrainingState:
    """Read one checkpoint.

    Raises:
        CheckpointError: a file is missing, cut off or changed.
    """
    try:
        sums = json.loads((directory / _MANIFEST).read_text())
        for name, expected in sums.items():
            if _checksum(directory / name) != expected:
                raise CheckpointError(f"checkpoint `{directory}` is damaged: `{name}` is not as it was written")
        facts = json.loads((directory / "state.json").read_text())
        model = load_file(directory / "model.safetensors")
        moments = load_file(directory / "optimizer.safetensors")
        average = load_file(directory / _AVERAGE) if _AVERAGE in sums else None
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint `{directory}` is damaged: {_reason(error)}") from None
    return TrainingState(
        step=facts["step"],
        model=model,
        optimizer={"state": _nested(moments), "param_groups": facts["param_groups"]},
        scaler=facts["scaler"],
        best=facts["best"],
        log_bytes=facts["log_bytes"],
        average=average,
        stale=facts["stale"],
    )


def _flat(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Name an optimizer's tensors `PARAMETER/NAME`, as safetensors wants them."""
    return _on_host({
        f"{parameter}/{name}": value
        for parameter, values in state.items()
        for name, value in values.items()
        if value is not None
    })  # fmt: skip


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to where safetensors can read their memory, which that of XLA's cannot be."""
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def _nested(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        parameter, name = key.split("/")
        state.setdefault(int(parameter), {})[name] = value
    return state


def newest_first(folder: Path) -> Iterator[Path]:
    """Give the checkpoints in a folder, the newest first; whether they are whole is not looked at."""
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)]
    return iter(sorted(found, key=lambda path: int(path.name[5:]), reverse=True))


def _checksum(path: Path) -> dict[str, int]:
    """Size and CRC-32, which a bit flip or a cut changes."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return {"bytes": size, "crc32": crc}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, FileNotFoundError):
        return f"`{Path(error.filename).name}` is missing"
    return " ".join(str(error).split())
