"""The largest batch that a device holds, found by training passes that leave no trace in the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from hfseg.engine.machine import memory_use
from hfseg.engine.memory import HINT, out_of_memory_told
from hfseg.engine.optim import OptimConfig
from hfseg.engine.runtime import Runtime
from hfseg.engine.task import Task
from hfseg.engine.xla import XLA
from hfseg.errors import LaunchError, RunFailed
from hfseg.values import Batch

SHARE = 0.9
"""The part of the memory that may be taken: later steps fragment it, and validation has sizes of its own."""


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Find the largest of rising `sizes` that fits, by doubling and then bisection; None where not even the first does.

    What is larger than a size that does not fit is not tried.
    """
    good, bad = -1, len(sizes)
    while bad - good > 1:
        if good < 0:
            place = 0
        elif bad == len(sizes):  # nothing has failed yet
            place = max(good + 1, sum(size <= 2 * sizes[good] for size in sizes) - 1)
        else:
            place = (good + bad) // 2
        good, bad = (place, bad) if fits(sizes[place]) else (good, place)
    return None if good < 0 else sizes[good]


def largest_batch(
    task: Task, optim: OptimConfig, runtime: Runtime, *, images: int, least: int = 1, limit: int | None = None
) -> int:
    """Find the largest batch size with which a whole number of batches makes `images`, a process's share of a step.

    Crops of a run have one size, so any batch is as large as the worst. Each trial is a forward and a backward pass, in
    the precision of the run, beside all that an optimizer, averaged weights and shared gradients will hold. What a
    compiled model saves is not counted. All processes try the same sizes and agree; weights and buffers stay as they
    are. `limit` is the memory, in bytes, that a process may take; nine tenths of what there is where it is not given.

    Raises:
        RunFailed: a batch of `least` images, without which the model cannot be trained, does not fit.
        LaunchError: the device is one of XLA, which compiles for every size and does not say what it takes.
    """
    if runtime.device.type == XLA:
        raise LaunchError(
            "`optim.auto_batch` is for other devices: got device `xla`", hint="leave it out, and give --batch-size"
        )
    sizes = [size for size in range(least, images + 1) if images % size == 0] or [images]
    model = task.model.to(runtime.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):  # it would wait for a process that has run out of memory
            module.eval()
    trial = _Trial(task, runtime, next(iter(task.batches(0))), limit)
    reserve = _reserve(task, optim, runtime)
    try:
        found = largest_fitting(sizes, trial.fits)
    finally:
        del reserve
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if found is None:
        told = trial.error or f"memory of `{runtime.device}` does not suffice for {sizes[0]} images a batch"
        raise RunFailed(told, hint=HINT)
    return found


@dataclass
class _Trial:
    """Passes with batches of a number of images, one after the other."""

    task: Task
    runtime: Runtime
    example: Batch
    limit: int | None
    error: str | None = None
    """What was said when memory ran out."""
    before: int = 0
    """Bytes taken before the first trial."""
    per_image: float = 0.0
    """Bytes that an image took in the last trial."""

    def fits(self, count: int) -> bool:
        """Try a number of images in every process, and tell whether all of them could."""
        return not self.runtime.any(not self._fits(count))

    def _fits(self, count: int) -> bool:
        device = self.runtime.device
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            with memory_use(str(device)) as use:
                self.before = self.before or use.before
                limit = self._limit(use.limit, use.before)
                if device.type != "cuda" and self.before + count * self.per_image > limit:
                    return False  # a CPU has no error to wait for: the system ends a process that takes too much
                self._compute(count)
        except RunFailed as error:
            self.error = error.message
            return False
        self.per_image = max(0, use.peak - self.before) / count
        return use.peak <= limit

    def _compute(self, count: int) -> None:
        model, device = self.task.model, self.runtime.device
        batch = _repeated(self.example, count).to(device)
        try:
            with out_of_memory_told(model, device) as tell:
                tell(batch.pixel_values.shape)
                with self.runtime.accelerator.autocast():
                    total = self.task.loss_fn(model, self.task.augment(batch))["total"]
                total.backward()
        finally:
            model.zero_grad(set_to_none=True)

    def _limit(self, there: int, before: int) -> int:
        """What this process may take; processes without a GPU share the memory of one machine."""
        if self.limit is not None:
            return self.limit
        if self.runtime.device.type == "cuda":
            return int(SHARE * there)
        return before + int(SHARE * (there - before)) // self.runtime.world_size


def _reserve(task: Task, optim: OptimConfig, runtime: Runtime) -> list[torch.Tensor]:
    """Take the memory of the optimizer's state, of averaged weights, and of gradients on their way to others."""
    moments = 2 if optim.name != "sgd" else int(optim.momentum > 0)
    trained = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    kept = trained * (moments + int(runtime.world_size > 1))
    averaged = [] if optim.ema_decay is None else list(task.model.parameters())
    return [torch.zeros_like(parameter) for parameter in (*kept, *averaged)]


def _repeated(batch: Batch, count: int) -> Batch:
    """Make a batch of `count` images from another one's."""
    places = torch.arange(count) % len(batch)
    return replace(
        batch,
        pixel_values=batch.pixel_values[places],
        labels=batch.labels[places],
        ids=tuple(batch.ids[place] for place in places.tolist()),
        draws=None if batch.draws is None else batch.draws[places],
    )
