"""Losses, norms and speed between two log records; nothing is fetched from the device before a record is due."""

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]  # Accelerate depends on it
import torch
from torch import Tensor

from hfseg.engine.capture import Breakdown
from hfseg.engine.runtime import Runtime
from hfseg.engine.xla import stacked
from hfseg.values import Batch

MIB = 2**20


@dataclass
class Meter:
    """Collects what a run does, and says the means of it."""

    runtime: Runtime
    pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = field(default_factory=list)
    """Losses that are still on the device: step, ids, terms."""
    norms: list[tuple[int, Tensor]] = field(default_factory=list)
    """Norms of the gradients before clipping, still on the device, and their steps."""
    images: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, step: int, ids: tuple[str, ...], terms: dict[str, Tensor]) -> None:
        """Note the losses of one batch."""
        self.pending.append((step, ids, {name: value.detach() for name, value in terms.items()}))
        self.images += len(ids)

    def add_norm(self, step: int, norm: Tensor | None) -> None:
        """Note the norm of a step's gradients, where it is known."""
        self.norms += [] if norm is None else [(step, norm.detach())]

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

    def breakdown(self) -> Breakdown | None:
        """Find the first loss or norm since the last time that is not finite, in any process."""
        mine = min((found for found in (self._bad_loss(), self._bad_norm()) if found), key=_order, default=None)
        return min((found for found in self.runtime.gather(mine) if found), key=_order, default=None)

    def fetch(self) -> dict[str, float]:
        """Give the means since the last time, over all processes, and start anew; `loss` is the total."""
        names = list(self.pending[-1][2])
        values = stacked([terms[name] for _, _, terms in self.pending for name in names]).view(-1, len(names))
        means = self.runtime.accelerator.reduce(values.float().mean(0), reduction="mean").tolist()
        seconds = time.perf_counter() - self.since
        found = {"loss" if name == "total" else name: mean for name, mean in zip(names, means, strict=True)}
        if self.norms:
            found["grad_norm"] = self._mean_norm()
        found |= {
            "images_per_s": self.images * self.runtime.world_size / seconds,
            "data_wait": self.waited / seconds,
            "peak_memory_mb": peak_memory_mb(self.runtime.device),
            "seconds": seconds,
        }
        self.pending, self.norms, self.images, self.waited, self.since = [], [], 0, 0.0, time.perf_counter()
        return found

    def _mean_norm(self) -> float:
        """Average the norms that are finite: in fp16, a step whose scale was too large has none."""
        norms = stacked([norm for _, norm in self.norms])
        return float(norms[norms.isfinite()].mean())

    def _bad_loss(self) -> Breakdown | None:
        totals = stacked([terms["total"] for _, _, terms in self.pending]).tolist()
        bad = next((place for place, total in enumerate(totals) if not math.isfinite(total)), None)
        if bad is None:
            return None
        step, ids, _ = self.pending[bad]
        micro = sum(earlier == step for earlier, _, _ in self.pending[:bad])
        return Breakdown(step, "loss", totals[bad], micro, self.runtime.rank, ids)

    def _bad_norm(self) -> Breakdown | None:
        """In fp16 the scaler takes care of gradients."""
        if self.runtime.accelerator.scaler is not None or not self.norms:
            return None
        norms = stacked([norm for _, norm in self.norms]).tolist()
        bad = next((place for place, norm in enumerate(norms) if not math.isfinite(norm)), None)
        if bad is None:
            return None
        step = self.norms[bad][0]
        batches = [ids for made_in, ids, _ in self.pending if made_in == step]
        return Breakdown(step, "gradient norm", norms[bad], len(batches) - 1, self.runtime.rank, batches[-1])


def peak_memory_mb(device: torch.device) -> float:
    """Give the most memory that this process had at once, in MiB: of its GPU, or else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def _order(found: Breakdown) -> tuple[int, bool, int, int]:
    return found.order
