"""Ctrl-C and SIGTERM become a wish that the loop grants between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Remembers the first signal that asked the run to stop."""

    caught: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that the signal ended."""
        return 128 + (self.caught or signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[StopWish]:
    """Catch SIGTERM and the first Ctrl-C; a second Ctrl-C interrupts at once.

    Loader workers that are started inside inherit what is done at Ctrl-C, and so finish their batch instead of dying
    with the terminal's.
    """
    wish = StopWish()

    def remember(number: int, frame: FrameType | None) -> None:
        if wish.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.caught = signal.Signals(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
