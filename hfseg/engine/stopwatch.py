"""How long a part of every round of a loop takes, without waiting for the device."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hfseg.engine.xla import XLA

Mark = float | torch.cuda.Event
_WARM = 1
"""Rounds before the one that is told: the first is slow."""


class Stopwatch:
    """Times one part of each round; a round is from one start of that part to the next.

    On a GPU times are the device's, read once it is through with a round. XLA runs what it was told later and as a
    whole, so that nothing is timed there. `tell` is told milliseconds and share of the round, once, early on.
    """

    def __init__(self, device: torch.device, *, tell: Callable[[float, float], None]) -> None:
        self.device = device
        self.tell = tell
        self.ms = 0.0
        """What the part took in the last round that is done."""
        self.share = 0.0
        """Its share of that round."""
        self._rounds: deque[tuple[Mark, Mark, Mark]] = deque()
        self._last: tuple[Mark, Mark] | None = None
        self._done = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the part that the block is."""
        start = self._mark()
        if self._last is not None:
            self._rounds.append((*self._last, start))
        yield
        self._last = start, self._mark()
        self._settle()

    def terms(self, name: str) -> dict[str, Tensor]:
        """Give time and share as numbers for the log, beside the terms of a loss; 0 before a first round is done."""
        if self.device.type == XLA:
            return {}
        found = {f"{name}_ms": self.ms, f"{name}_share": self.share}
        return {key: torch.full((), value, device=self.device) for key, value in found.items()}

    def _mark(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _settle(self) -> None:
        """Read the rounds that the device is through with."""
        while self._rounds and _is_past(self._rounds[0][2]):
            start, end, following = self._rounds.popleft()
            self.ms = _elapsed_ms(start, end)
            self.share = self.ms / max(_elapsed_ms(start, following), 1e-9)
            self._done += 1
            if self._done == _WARM + 1 and self.device.type != XLA:
                self.tell(self.ms, self.share)


def _is_past(mark: Mark) -> bool:
    return isinstance(mark, float) or bool(mark.query())


def _elapsed_ms(start: Mark, end: Mark) -> float:
    if isinstance(start, float):
        assert isinstance(end, float), "marks of one device are of one kind"
        return 1000 * (end - start)
    assert not isinstance(end, float), "marks of one device are of one kind"
    return float(start.elapsed_time(end))
