"""One run at a time in a folder: a lock that the system lets go of when its process ends, however it ends."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from hfseg.engine.runtime import Runtime
from hfseg.errors import CheckpointError

LOCK = ".lock"
"""Name of the file in a run's folder that its main process keeps locked; it holds who that is."""
_TAKEN = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def sole_run(folder: Path, runtime: Runtime, *, warn: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of `folder` while this one goes on; reading there stays free to everyone.

    The main process holds a POSIX record lock on a file in it. Loader workers do not inherit such a lock, so that none
    of them keeps it after its run was killed. The folder is made where there is none, and is taken away at the end
    where nothing else came into it. On a file system without locks, `warn` is told and the run goes on.

    Raises:
        CheckpointError: another run is at work in the folder (names its process, its host and its start), or nothing
            can be written there.
    """
    held: list[IO[str]] = []
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    runtime.on_main(lambda: held.append(_taken(folder, warn)))
    try:
        yield
    finally:
        for file in held:
            _let_go(file, folder, made)


def _taken(folder: Path, warn: Callable[[str], None]) -> IO[str]:
    """Open and lock the file, and write into it who did."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"output `{folder}` cannot be written: {error.strerror or error}", hint="give another --output"
        ) from None
    if not _locked(file, folder, warn):
        return file
    if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):  # its holder took it away
        file.close()
        return _taken(folder, warn)
    file.truncate(0)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    file.write(json.dumps(who))
    file.flush()
    return file


def _locked(file: IO[str], folder: Path, warn: Callable[[str], None]) -> bool:
    """Lock a file; False where its file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warn(f"`{folder}` is on a file system without locks: nothing keeps a second run out of it")
            return False
        if error.errno not in _TAKEN:
            raise
        file.seek(0)
        message = f"output `{folder}` is in use: {_holder(file.read())}"
        file.close()
        raise CheckpointError(
            message, hint="wait until it ends, or give another --output; evaluating and reporting a run need no wait"
        ) from None
    return True


def _holder(text: str) -> str:
    """Say who wrote a lock; a run that has only just taken it has written nothing yet."""
    try:
        who = json.loads(text)
    except ValueError:
        return "another run has just started in it"
    return f"process {who['pid']} on `{who['host']}` has been running in it since {who['since']}"


def _let_go(file: IO[str], folder: Path, made: Sequence[Path]) -> None:
    """Take the file away before its lock ends, so that nobody locks a file that is about to go."""
    (folder / LOCK).unlink(missing_ok=True)
    file.close()
    for path in made:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
