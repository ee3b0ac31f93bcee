"""The processes that read: how they take signals, and what is said when one of them is lost."""

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from hfseg.errors import RunFailed

SHARED_MEMORY = Path("/dev/shm")
_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>.*)", re.DOTALL)
_LATE = re.compile(r"DataLoader timed out after (?P<seconds>[\d.]+) seconds")


def heed_parent_only(worker: int) -> None:
    """Let this process pass over SIGTERM, unless its parent sends it.

    Schedulers send SIGTERM to every process of a job; the main process then saves its state between two steps, for
    which it still needs batches. Python and torch end the workers that are left by SIGTERM, too.
    """
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Wait until `parent` sends SIGTERM, and end."""
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)


@contextmanager
def lost_workers_told(workers: Sequence[BaseProcess] = ()) -> Iterator[None]:
    """Turn torch's errors about workers that died or do not answer into ones that say what to do.

    Torch raises when the system tells it of a death, wherever the main process is then: put this around whatever goes
    on while batches are read. `workers` are ended when one of them is lost.

    Raises:
        RunFailed: a worker died, or gave no batch for `loader.timeout_s`.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        told = _told(str(error))
        if told is None and workers and not isinstance(error, RuntimeError):  # it was to hand over a batch
            told = _lost("a loader worker was lost: it does not speak any more")
        if told is None:
            raise
        _end(workers)
        raise told from None


def _end(workers: Sequence[BaseProcess]) -> None:
    """Kill processes, of which some may not answer: torch would only ask them to end, and wait for that without end."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises for each one that is killed
    try:
        for worker in workers:
            worker.kill()
            worker.join()
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _told(message: str) -> RunFailed | None:
    """Say in our words what torch said of a worker; None where it said nothing of one."""
    if late := _LATE.search(message):
        return RunFailed(
            f"no batch came from the loader workers in {float(late['seconds']):g} s (`loader.timeout_s`)",
            hint="a file may lie on a disk or a server that does not answer; where reading is only slow, make "
            "`loader.timeout_s` larger",
        )
    if not (lost := _LOST.search(message)):
        return None
    how, _, _ = lost["how"].partition(".")
    return _lost(f"a loader worker (process {lost['pids']}) was lost: {how.removeprefix('is ').strip()}")


def _lost(message: str) -> RunFailed:
    return RunFailed(
        message, hint=f"`dmesg` says whether memory ran out: make `loader.workers` smaller; {_shared_memory()}"
    )


def _shared_memory() -> str:
    """Say how large the memory is through which batches come."""
    if not SHARED_MEMORY.is_dir():
        return "batches come through shared memory"
    total, _, free = (size / 2**20 for size in shutil.disk_usage(SHARED_MEMORY))
    return (
        f"batches come through shared memory, `{SHARED_MEMORY}`, of which {free:,.0f} of {total:,.0f} MiB are free "
        "(in a container: --shm-size)"
    )
