"""The processes that read: how they take signals, and what is said when one of them is lost."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data._utils import signal_handling

from hfseg.errors import RunFailed

SHARED_MEMORY = Path("/dev/shm")
LOOK_S = 1.0
"""Seconds between two looks at whether a wait is over."""

Read = TypeVar("Read")


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


def read_by_workers(batches: Iterable[Read], *, timeout_s: float) -> Iterator[Read]:
    """Give what the workers of a torch loader read, if it has any; none of them outlives the pass, however it ends.

    Raises:
        RunFailed: a worker died, or gave no batch for `timeout_s`.
    """
    others, handler = active_children(), signal.getsignal(signal.SIGCHLD)
    reads = iter(batches)
    workers = [process for process in active_children() if process not in others]
    if not workers:
        yield from reads
        return
    _heed_deaths_as_before(handler)
    ended = Finalize(None, _end, (workers,), exitpriority=0)  # before Python, at its end, waits for them
    try:
        while True:
            with _losses_told(workers), _answered_in(timeout_s, workers):
                read = next(reads, None)
            if read is None:
                return
            yield read
    finally:
        del reads  # torch asks its workers to end, and gives up on one that does not answer after some seconds
        ended()


def _heed_deaths_as_before(handler: Any) -> None:
    """Set aside torch's handler of workers that die: it raises wherever Python is when the signal comes.

    That may be in the middle of a step, of a checkpoint, or of what torch itself does about that death. Each read looks
    for deaths instead, and torch does every five seconds of a wait.
    """
    if threading.current_thread() is threading.main_thread() and _is_of_torch(signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_of_torch(handler) else handler)


def _is_of_torch(handler: Any) -> bool:
    return getattr(handler, "__module__", None) == signal_handling.__name__


@contextmanager
def _losses_told(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Say that a worker is gone, instead of what Python or torch say when they miss it.

    Raises:
        RunFailed: a worker is gone.
    """
    _refuse_losses(workers)
    try:
        yield
    except (RuntimeError, OSError, EOFError):
        wait([worker.sentinel for worker in workers], LOOK_S)  # what it spoke through is closed before it has ended
        _refuse_losses(workers)
        raise


def _refuse_losses(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if (code := worker.exitcode) is not None:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise RunFailed(
                f"a loader worker (process {worker.pid}) was lost: {how}",
                hint=f"`dmesg` says whether memory ran out: make `loader.workers` smaller; {_shared_memory()}",
            ) from None


@contextmanager
def _answered_in(seconds: float, workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Kill workers on whom something waits for longer than `seconds`, which ends any wait.

    Torch's own timeout does not: a batch comes through a socket of the process that made it, on which torch waits
    without end where that process was stopped.

    Raises:
        RunFailed: it took longer.
    """
    late, answered = threading.Event(), threading.Event()

    def watch() -> None:
        if not _passed(answered, seconds):
            late.set()
            for worker in workers:
                worker.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except (RuntimeError, OSError, EOFError):
        if not late.is_set():
            raise
    finally:
        answered.set()
    if late.is_set():
        raise RunFailed(
            f"no batch came from the loader workers in {seconds:g} s (`loader.timeout_s`)",
            hint="a file may lie on a disk or a server that does not answer, or a worker was stopped; where reading is "
            "only slow, make `loader.timeout_s` larger",
        )


def _passed(event: threading.Event, seconds: float) -> bool:
    """Wait for an event and say whether it came; time in which this process was stopped (Ctrl-Z) does not count."""
    left = seconds
    while left > 0 and not event.is_set():
        began = time.monotonic()
        event.wait(min(left, LOOK_S))
        left -= min(time.monotonic() - began, 2 * LOOK_S)
    return event.is_set()


def _end(workers: Sequence[BaseProcess]) -> None:
    """Kill those that are left: torch only asks them to end, and Python waits for that without end."""
    for worker in workers:
        worker.kill()
        worker.join()


def _shared_memory() -> str:
    """Say how large the memory is through which batches come."""
    if not SHARED_MEMORY.is_dir():
        return "batches come through shared memory"
    total, _, free = (size / 2**20 for size in shutil.disk_usage(SHARED_MEMORY))
    return (
        f"batches come through shared memory, `{SHARED_MEMORY}`, of which {free:,.0f} of {total:,.0f} MiB are free "
        "(in a container: --shm-size)"
    )
