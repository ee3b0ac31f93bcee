"""A few real steps of training whose weights are thrown away: what a run costs, before it is started."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import TypeVar

import torch

from hfseg.engine.machine import MemoryUse, memory_use
from hfseg.engine.memory import out_of_memory_told
from hfseg.engine.optim import OptimConfig
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.engine.task import Losses, Task
from hfseg.engine.trainable import Trainable
from hfseg.engine.xla import cut_graph
from hfseg.errors import RunFailed
from hfseg.values import Batch

WARMUP_STEPS, TIMED_STEPS = 1, 3
PATIENCE_S = 20.0
"""After this long no further batch is read to time the loader."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class DryRun:
    """What steps and batches took, in seconds, and what the steps needed."""

    step_s: float
    """An optimizer step with its batches at hand: the median of a few after a warm-up."""
    batch_s: float
    """Reading a training batch, while nothing else computes."""
    validation_s: float
    """The validation of the task, reading included, after a first one."""
    memory: MemoryUse
    """Of the steps and validations."""
    losses: dict[str, float]
    """Of the first batch, by name."""


@dataclass(frozen=True)
class Estimate:
    """What a whole run would take, in seconds; without writing checkpoints and pictures."""

    num_steps: int
    num_validations: int
    """The last one scores the best weights again."""
    training_s: float
    waiting_s: float
    """The part of `training_s` in which the device waits for data."""
    validation_s: float

    @property
    def total_s(self) -> float:
        """Training and validation together."""
        return self.training_s + self.validation_s


def dry_run(task: Task, plan: Plan, optim: OptimConfig, runtime: Runtime, *, num_batches: int) -> DryRun:
    """Train a task for a few steps on its first batches, and validate it.

    The loader is timed on `num_batches` batches, which should be several times its workers. Frozen weights that would
    be set free later are free from the first step, since those steps cost most. The weights of the model change;
    nothing is written.

    Raises:
        RunFailed: the loss is not finite, or the device has not enough memory.
    """
    batches, batch_s = _read(task, num_batches, keep=plan.config.accumulation)
    if task.unfreeze_steps:
        task.unfreeze(task.unfreeze_steps[-1])
    device = runtime.device
    try:
        with memory_use(str(device)) as memory, out_of_memory_told(task.model, device):
            seconds, losses = _train(task, plan, optim, runtime, batches)
            validations = [_seconds(task.validate, device)[0] for _ in range(2)]
    finally:
        runtime.accelerator.free_memory()
    return DryRun(median(seconds[WARMUP_STEPS:]), batch_s, validations[-1], memory, losses)


def estimate(run: DryRun, plan: Plan, *, validation_share: float, is_overlapped: bool) -> Estimate:
    """Extend a dry run to the whole plan.

    `validation_share` is the part of the validation images that the dry run looked at. `is_overlapped` says that
    batches are read while the device computes, so that the slower of the two counts; else both add up.
    """
    reading_s = run.batch_s * plan.config.accumulation
    waiting_s = max(0.0, reading_s - run.step_s) if is_overlapped else reading_s
    num_validations = math.ceil(plan.num_steps / plan.eval_every) + 1
    return Estimate(
        num_steps=plan.num_steps,
        num_validations=num_validations,
        training_s=plan.num_steps * (run.step_s + waiting_s),
        waiting_s=plan.num_steps * waiting_s,
        validation_s=num_validations * run.validation_s / validation_share,
    )


def _read(task: Task, num_batches: int, *, keep: int) -> tuple[list[Batch], float]:
    """Read some batches and keep the first; give the seconds of each, from the first one on, when all workers run."""
    source = iter(task.batches(0))
    kept, read = [next(source)], 0
    began = time.perf_counter()
    for batch in islice(source, max(num_batches, keep)):
        read += 1
        kept += [batch] if len(kept) < keep else []
        if time.perf_counter() - began > PATIENCE_S and len(kept) == keep:
            break
    return kept, (time.perf_counter() - began) / read


def _train(
    task: Task, plan: Plan, optim: OptimConfig, runtime: Runtime, batches: list[Batch]
) -> tuple[list[float], dict[str, float]]:
    """Make the steps that the loop would make, on the same batches again and again."""
    trainable = Trainable(task.model, optim, runtime, depths=task.depths)
    trainable.trained.train()

    def step(number: int) -> Losses:
        optim.set_lr(trainable.optimizer, number, plan.num_steps)
        here = (batch.to(runtime.device) for batch in batches)
        passes, _ = trainable.take_step(number, here, task.augment, task.loss_fn, count=len(batches))
        return passes[-1][1]

    seconds = []
    first: dict[str, float] = {}
    for number in range(WARMUP_STEPS + TIMED_STEPS):
        took, losses = _seconds(partial(step, number), runtime.device)
        seconds.append(took)
        first = first or {name: float(value) for name, value in losses.items()}
    if not all(math.isfinite(value) for value in first.values()):
        ids = ", ".join(f"`{name}`" for name in batches[-1].ids)
        raise RunFailed(
            f"the first loss is {first['total']}: the batch holds {ids}",
            hint="`--precision no` may help; see whether the crops hold labelled pixels",
        )
    return seconds, first


def _seconds(action: Callable[[], Value], device: torch.device) -> tuple[float, Value]:
    """Do something and wait until the device is done with it; give the seconds and the value."""
    began = time.perf_counter()
    value = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cut_graph(device, wait=True)
    return time.perf_counter() - began, value
