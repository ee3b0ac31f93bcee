"""Losses and speed between two log records; nothing is fetched from the device before a record is due."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hfseg.engine.runtime import Runtime
from hfseg.errors import RunFailed
from hfseg.values import Batch

NORM = "grad_norm"


@dataclass
class Meter:
    """Collects what a run does, and says the means of it."""

    runtime: Runtime
    pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = field(default_factory=list)
    """Losses that are still on the device: step, ids, terms."""
    norms: list[Tensor] = field(default_factory=list)
    images: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, step: int, ids: tuple[str, ...], terms: dict[str, Tensor]) -> None:
        """Note the losses of one batch."""
        self.pending.append((step, ids, {name: value.detach() for name, value in terms.items()}))
        self.images += len(ids)

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Hand batches on and measure how long the run waits for them."""
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            yield batch

    def pause(self, began: float) -> None:
        """Leave the time since `began` out of the speed: it went into a validation or a checkpoint."""
        self.since += time.perf_counter() - began

    def fetch(self, *, last_good: str) -> dict[str, float]:
        """Give the means since the last time, over all processes, and start anew; `loss` is the total.

        Raises:
            RunFailed: a loss is not finite in one of the processes; names the step and the images, and `last_good`.
        """
        names = list(self.pending[-1][2])
        values = torch.stack([torch.stack([terms[name] for name in names]) for _, _, terms in self.pending])
        self._check_finite(values[:, names.index("total")].tolist(), last_good)
        means = self.runtime.accelerator.reduce(values.float().mean(0), reduction="mean").tolist()
        seconds = time.perf_counter() - self.since
        found = {"loss" if name == "total" else name: mean for name, mean in zip(names, means, strict=True)}
        if self.norms:
            found[NORM] = float(torch.stack(self.norms).mean())
        found |= {
            "images_per_s": self.images * self.runtime.world_size / seconds,
            "data_wait": self.waited / seconds,
            "seconds": seconds,
        }
        self.pending, self.norms, self.images, self.waited, self.since = [], [], 0, 0.0, time.perf_counter()
        return found

    def _check_finite(self, totals: list[float], last_good: str) -> None:
        bad = next((i for i, total in enumerate(totals) if not math.isfinite(total)), None)
        mine = None if bad is None else (self.pending[bad][0], totals[bad], self.pending[bad][1])
        found = [case for case in self.runtime.gather(mine) if case is not None]
        if not found:
            return
        step, total, ids = min(found)
        raise RunFailed(
            f"loss is {total} at step {step}: the batch holds {', '.join(f'`{name}`' for name in ids)}",
            hint=f"{last_good}; a lower --lr, `--set optim.clip_norm=1` or `--precision no` may help",
        )
