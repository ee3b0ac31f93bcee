"""What a process says when another one of its run is gone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hfseg.errors import RunFailed

_GONE = re.compile(r"connection (closed|reset) by peer|connection refused|broken pipe|remote process exited", re.I)
"""How gloo and NCCL say it."""


@contextmanager
def lost_processes_told() -> Iterator[None]:
    """Turn a backend's error about a process that left into one that says where to look.

    Raises:
        RunFailed: another process of the run is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not _GONE.search(str(error)):
            raise
        raise RunFailed(
            "another process of the run is gone",
            hint="what it said itself stands above, if it was not killed; go on from the last checkpoint with --resume",
        ) from None
