"""Runs the command line, as a user does: the installed program, or one forked from a process that has imported it.

Most of a short command's time goes into imports, so a server of the standard library's own imports them once, and each
command is forked from it: a process with its own number, signals, memory and exit code. It has one thread, so that
there is nothing that a fork can tear apart. `installed` starts the program itself; each command is run in that way too.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

HFSEG = str(Path(sys.executable).with_name("hfseg"))
QUICK = ["--crop-size", "64", "--batch-size", "4", "--workers", "1", "--lr", "1e-3", "--set", "samples=2"]
"""Options that make a run on the demo data small."""
PRELOADED = [
    *("hfseg.cli", "hfseg.recipes.finetune", "hfseg.recipes.evaluate", "hfseg.recipes.predict", "hfseg.recipes.lr"),
    *("datasets", "pandas", "matplotlib.backends.backend_svg", "torch.distributed.run", "torch.utils.checkpoint"),
]
PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    PROCESSES.set_forkserver_preload(PRELOADED)


class Forked:
    """A program in a process of its own, with what `subprocess.Popen` has: it runs from here on, and is not waited for."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        is_group: bool = False,
        **env: str,
    ) -> None:
        """Start a module (`hfseg`) with arguments; errors go with the rest of what it says if it leads a group."""
        self.files = [tempfile.NamedTemporaryFile("r") for _ in range(1 if is_group else 2)]  # noqa: SIM115
        weakref.finalize(self, _close, self.files)
        names = [file.name for file in self.files]
        settings = (program, [str(each) for each in arguments], names, cwd or Path.cwd(), {**os.environ, **env})
        self.process = PROCESSES.Process(target=_run, args=(*settings, is_group))
        self.process.start()
        self.pid, self.stdout = self.process.pid, self.files[0]

    @property
    def returncode(self) -> int | None:
        """How it ended, or the number of the signal that ended it, below zero."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.process.exitcode

    def kill(self) -> None:
        """End it, and none of its children."""
        self.process.kill()

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it ends, and give what it said."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("hfseg", timeout or 0)
        said = [file.read() for file in self.files]
        return said[0], said[-1]

    def __enter__(self) -> "Forked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.join()


def _close(files: list[IO[str]]) -> None:
    for file in files:
        file.close()


def _run(
    program: str, arguments: list[str], files: list[str], cwd: Path, environment: dict[str, str], is_group: bool
) -> None:
    """Be the program: in its folder, with its variables, writing to its files."""
    multiprocessing.set_start_method(None, force=True)  # its own children are made as they are everywhere
    if is_group:
        os.setsid()
    for number, name in zip((1, 2), (files[0], files[-1]), strict=True):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [program, *arguments]
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def hfseg(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `hfseg` and insist on its exit code."""
    return run("hfseg", *arguments, code=code, cwd=cwd)


def run(
    program: str, *arguments: str | Path, code: int = 0, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a module as a program, and insist on its exit code."""
    with Forked(program, arguments, cwd=cwd, **environment) as process:
        said = process.communicate()
    return ended(subprocess.CompletedProcess([program, *arguments], process.returncode, *said), code)


def installed(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed program `hfseg` and insist on its exit code."""
    command = [HFSEG, *map(str, arguments)]
    return ended(subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ), code)


def ended(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    """Insist on an exit code, or show what was said."""
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: str | Path) -> Forked:
    """Start `hfseg` in a process group of its own and do not wait."""
    return Forked("hfseg", arguments, is_group=True)
