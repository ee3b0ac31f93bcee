"""Ports of this machine, for what is shown to its own browsers alone."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hfseg.errors import ConfigError

HOST = "127.0.0.1"


@contextmanager
def port_told(port: int) -> Iterator[None]:
    """Name a port that cannot be bound.

    Raises:
        ConfigError: it is in use, or reserved.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        reason = "is in use" if error.errno == errno.EADDRINUSE else "may not be opened by this user"
        raise ConfigError(f"port {port} of {HOST} {reason}", hint="give another by --port; 0 is any free one") from None


def find_port(port: int) -> int:
    """Make sure that a port can be bound, for a server that binds it itself; 0 finds a free one.

    Raises:
        ConfigError: it cannot be bound.
    """
    with port_told(port), socket.create_server((HOST, port)) as probe:
        return int(probe.getsockname()[1])
