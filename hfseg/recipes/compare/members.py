"""Training and scoring the runs of a study, each in a process of its own, so that what ends one leaves the others."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfseg.config import differences
from hfseg.engine.checkpoint import write_file
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.stop import StopWish
from hfseg.errors import CheckpointError, DataError, RunFailed, RunInterrupted
from hfseg.recipes.compare.study import PlannedRun
from hfseg.recipes.evidence import COUNTS
from hfseg.recipes.run import FREE_ON_RESUME, RunFolder

POLL_S = 0.1
LAST_LINES = 20


@dataclass(frozen=True)
class MemberProcesses:
    """Starts the processes of a study and keeps what they say in `logs/`."""

    folder: Path
    launcher: str
    wish: StopWish

    def train(self, run: PlannedRun) -> None:
        """Train a run to its end; one that is finished is left alone, one that was begun goes on.

        Raises:
            RunFailed: the process failed; says how.
            RunInterrupted: the study was told to stop.
        """
        began = (run.folder / "config.yaml").is_file()
        if (run.folder / "metrics.json").is_file():
            return
        settings = self.folder / "configs" / f"{run.name}.yaml"
        settings.parent.mkdir(parents=True, exist_ok=True)
        write_file(settings, run.config.to_yaml())
        command = [
            *(shlex.split(self.launcher) or [sys.executable]),
            "-m",
            "hfseg",
            "finetune",
            "--config",
            str(settings),
        ]
        self._run([*command, "--output", str(run.folder), *(["--resume"] if began else [])], f"{run.name}-train")

    def score(self, run: PlannedRun, *, model: str, split: str, protocol: ProtocolConfig | None) -> Path:
        """Score a run's model on a part of its data, and give the folder of the scores; those that are there are kept.

        Raises:
            RunFailed: the process failed, or the run has not come to its end.
            RunInterrupted: the study was told to stop.
        """
        if not (run.folder / "metrics.json").is_file():
            raise RunFailed(f"run `{run.folder}` is not finished: it has no `metrics.json`")
        text = (protocol or run.config.protocol).to_text()
        own = split == "validation" and model == RunFolder(run.folder).best.name
        target = self.folder / "scores" / run.name
        for folder in (run.folder, target) if own else (target,):
            if _has_scores(folder, run.folder / model, split=split, protocol=text, is_own=folder == run.folder):
                return folder
        quiet = ["worst=0", "verify_data=false", *([] if protocol is None else [f"protocol={_flow(protocol)}"])]
        sets = [word for setting in quiet for word in ("--set", setting)]
        command = [sys.executable, "-m", "hfseg", "evaluate", str(run.folder / model), "--split", split]
        cpu = ["--cpu"] if run.config.runtime.cpu else []
        self._run([*command, "--output", str(target), *sets, *cpu], f"{run.name}-score")
        return target

    def _run(self, command: list[str], name: str) -> None:
        """Run a process to its end; a signal to the study is passed on to it.

        Raises:
            RunFailed: it failed; gives the end of what it said.
            RunInterrupted: the study was told to stop, and the process has ended.
        """
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file, _started(command, file) as process:
            told = False
            while process.poll() is None:
                if self.wish.caught is not None and not told:
                    os.killpg(process.pid, self.wish.caught)
                    told = True
                try:
                    process.wait(POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        if self.wish.caught is not None:
            hint = "go on with --resume; what was finished is kept"
            raise RunInterrupted(f"study stopped by {self.wish.caught.name}", hint, exit_code=self.wish.exit_code)
        if process.returncode:
            raise RunFailed(_reason(process.returncode, log.read_text(encoding="utf-8", errors="replace")), str(log))


@contextmanager
def _started(command: list[str], output: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process in a group of its own, which Ctrl-C on the terminal does not reach; end it if we are ended."""
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    except BaseException:  # a second Ctrl-C: nobody waits any more
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _reason(code: int, said: str) -> str:
    """Put into a line why a process failed: its own error, or the signal that ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}{': probably out of memory' if name == 'SIGKILL' else ''}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines[-1:] or [f"exit code {code}, without a word"])[-1]


def check_same(run: PlannedRun) -> None:
    """See that a run which was begun is the one that was planned.

    Raises:
        CheckpointError: settings differ; names them.
    """
    if not (run.folder / "config.yaml").is_file():
        return
    found = differences(RunFolder(run.folder).settings(), run.config)
    changed = {key: pair for key, pair in found.items() if key not in FREE_ON_RESUME}
    if changed:
        listed = ", ".join(f"`{key}` was {old!r}, got {new!r}" for key, (old, new) in changed.items())
        raise CheckpointError(
            f"run `{run.folder}` was made with other settings: {listed}", hint="give the study another --output"
        )


def _has_scores(folder: Path, model: Path, *, split: str, protocol: str, is_own: bool) -> bool:
    """Tell whether scores of just this model, part and protocol are there, made after the model."""
    path = folder / "metrics.json"
    if not path.is_file() or not (folder / COUNTS).is_file():
        return False
    metrics = json.loads(path.read_text(encoding="utf-8"))
    same = metrics["dataset"]["split"] == split and metrics["protocol"].get("text") == protocol
    newest = max(file.stat().st_mtime for file in model.iterdir())
    return same and path.stat().st_mtime >= newest and (is_own or metrics["model"] == str(model))


def _flow(protocol: ProtocolConfig) -> str:
    return yaml.safe_dump(protocol.model_dump(mode="json"), default_flow_style=True, width=float("inf")).strip()


def scores_of(folder: Path) -> dict[str, Any]:
    """Read the scores in a folder.

    Raises:
        DataError: they are damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"scores in `{folder}` cannot be read: {error}") from None
    return found
