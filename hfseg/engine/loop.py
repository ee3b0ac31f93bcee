"""The training loop. There is one; training, distillation and video differ by the `loss_fn` they pass."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfseg.engine.checkpoint import TrainingState, newest_first, replace_folder, save_checkpoint
from hfseg.engine.evaluation import prefetch
from hfseg.engine.meter import Meter
from hfseg.engine.optim import OptimConfig
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.engine.stop import StopWish, stop_on_signals
from hfseg.engine.tracking import RunLog, TrainProgress
from hfseg.engine.trainable import Trainable
from hfseg.errors import RunFailed, RunInterrupted
from hfseg.values import Batch

LossFn = Callable[[nn.Module, Batch], dict[str, Tensor]]
BEST = {"best_miou": ("mean_iou", max), "best_loss": ("loss", min)}
"""What a validation can be the best at: the score it is judged by, and which of two scores is better."""
_LISTEN_EVERY = 8
"""Steps between two askings of all processes whether one of them was told to stop."""


@dataclass(frozen=True)
class Task:
    """What is trained, and how: the parts that the loop calls without knowing their names."""

    model: nn.Module
    batches: Callable[[int], Iterable[Batch]]
    """All batches of this process from batch number n on, without end."""
    augment: Callable[[Batch], Batch]
    """The part of the augmentation that runs on the device."""
    loss_fn: LossFn
    validate: Callable[[], Mapping[str, Any]]
    """Scores of the current weights; `loss` (None where it is not known), `mean_iou` and `overall_accuracy` among
    them."""
    export: Callable[[Path], None]
    """Write the current weights as a model folder."""
    unfreeze: Callable[[], None]
    """Set frozen weights free."""
    seed: int
    """What dropout and the like are drawn from, together with step and rank."""
    depths: Mapping[str, int] | None = None
    """How deep each parameter lies, for learning rates that differ by depth."""
    unfreeze_step: int | None = None
    """The step before which frozen weights are set free; never where it is not given."""


def fit(
    task: Task, plan: Plan, optim: OptimConfig, runtime: Runtime, output: Path, *, state: TrainingState | None
) -> dict[str, float]:
    """Train until the plan is done and give the best scores by name.

    `output` gets `log.jsonl`, `checkpoints/`, `best-miou/`, `best-loss/` and `last/`. With `state`, the run goes on as
    if it had never stopped: random numbers are drawn from a generator that is seeded by (seed, step, rank).

    Raises:
        RunFailed: a loss is not finite (names the step and the images), or the disk is full.
        RunInterrupted: a signal asked to stop; the state was saved.
    """
    log = RunLog(output / "log.jsonl", runtime, keep_bytes=state.log_bytes if state else 0)
    start = state.step if state else 0
    try:
        with stop_on_signals() as wish, TrainProgress(plan.num_steps, runtime, start=start) as progress:
            return _Loop(task, plan, optim, runtime, output, log, progress).run(state, wish)
    finally:
        log.close()


@dataclass
class _Loop:
    """One run under way."""

    task: Task
    plan: Plan
    optim: OptimConfig
    runtime: Runtime
    output: Path
    log: RunLog
    progress: TrainProgress
    step: int = 0
    """Optimizer steps that are done."""
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    """Validations since the last one that was the best by mIoU."""
    lr: float = 0.0
    """Learning rate of the last step, where the scale is 1."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.runtime)

    def run(self, state: TrainingState | None, wish: StopWish) -> dict[str, float]:
        plan = self.plan
        self._start(state)
        batches = prefetch(
            self.meter.timed(self.task.batches(self.step * plan.config.accumulation)), self.runtime.device
        )
        while self.step < plan.num_steps and not self._is_stale():
            if self.step == self.task.unfreeze_step and self.step > 0:
                self._thaw()
            self._step(batches)
            if plan.logs(self.step):
                self._flush()
            if plan.validates(self.step):
                self._validate()
            if plan.saves(self.step) or self._is_stale():
                self._save()
            self.progress.advance(self.step)
            self._listen(wish)
        self._export_last()
        return self.best

    def _start(self, state: TrainingState | None) -> None:
        """Put the model onto its devices, as it was when `state` was taken."""
        task = self.task
        if state is not None:
            self.step, self.best, self.stale = state.step, dict(state.best), state.stale
            if task.unfreeze_step is not None and self.step > task.unfreeze_step:
                task.unfreeze()
            task.model.load_state_dict(state.model)
        self.trainable = Trainable(task.model, self.optim, self.runtime, depths=task.depths)
        if state is not None:
            self.trainable.restore(optimizer=state.optimizer, scaler=state.scaler, average=state.average)
            self.log.write("resume", self.step)
        task.model.train()

    def _thaw(self) -> None:
        """Set frozen weights free."""
        self.task.unfreeze()
        self.trainable.rewrap()
        self.progress.say(f"step {self.step}: frozen weights are trained from here on")

    def _step(self, batches: Iterator[Batch]) -> None:
        trainable, count = self.trainable, self.plan.config.accumulation
        self.lr = self.optim.set_lr(trainable.optimizer, self.step, self.plan.num_steps)
        torch.manual_seed(
            int(np.random.SeedSequence((self.task.seed, self.step, self.runtime.rank)).generate_state(1)[0])
        )
        self.step += 1
        for micro in range(count):
            with trainable.accumulating(last=micro == count - 1):
                batch = self.task.augment(next(batches))
                terms = self.task.loss_fn(trainable.wrapped, batch)
                self.runtime.accelerator.backward(terms["total"] / count)
            self.meter.add(self.step, batch.ids, terms)
        norm = trainable.update(self.step)
        self.meter.norms += [] if norm is None else [norm]

    def _flush(self) -> None:
        """Log the means since the last time, and stop on a loss that is not finite."""
        newest = next(newest_first(self.output / "checkpoints"), None)
        good = f"the last good checkpoint is `{newest}`" if newest else "there is no checkpoint yet"
        means = self.meter.fetch(last_good=good)
        record = self.log.write("train", self.step, epoch=self.plan.epoch(self.step), lr=self.lr, **means)
        if self.step % self.plan.config.log_every == 0 or self.step == self.plan.num_steps:
            self.progress.train(record)

    def _validate(self) -> None:
        began = time.perf_counter()
        with self.trainable.averaged():
            self.runtime.share_buffers(self.task.model)
            self._score()
        self.meter.pause(began)

    def _score(self) -> None:
        """Score the weights that are in the model, log that, and export them where they are the best."""
        began = time.perf_counter()
        scores = dict(self.task.validate())
        flags = {flag: self._is_best(score, better, scores[score]) for flag, (score, better) in BEST.items()}
        record = self.log.write(
            "validation",
            self.step,
            epoch=self.plan.epoch(self.step),
            **scores,
            seconds=time.perf_counter() - began,
            **flags,
        )
        self.progress.validation(record)
        self.stale = 0 if flags["best_miou"] else self.stale + 1
        for flag in (flag for flag in BEST if flags[flag]):
            self._export(flag.replace("_", "-"))
        if self._is_stale():
            self.log.write("early stop", self.step, validations=self.stale)
            self.progress.say(f"step {self.step}: stopped, {self.stale} validations without a better mIoU")

    def _is_stale(self) -> bool:
        """Whether the run has gone on for long enough without getting better."""
        return self.plan.config.patience is not None and self.stale >= self.plan.config.patience

    def _is_best(self, score: str, better: Callable[[float, float], float], value: float | None) -> bool:
        """Note a score and tell whether no earlier one was as good; one that is not known never is."""
        before = self.best.get(score)
        if value is None:
            return False
        if before is not None and (value == before or better(value, before) != value):
            return False
        self.best[score] = value
        return True

    def _export_last(self) -> None:
        with self.trainable.averaged():
            self._export("last")

    def _export(self, name: str) -> None:
        def write() -> None:
            try:
                replace_folder(self.output / name, self.task.export)
            except OSError as error:
                raise RunFailed(
                    f"`{self.output / name}` cannot be written: {error.strerror or error}",
                    hint="make room, then go on with --resume",
                ) from None

        self.runtime.on_main(write)

    def _save(self) -> None:
        def write() -> None:
            state = TrainingState(
                step=self.step, best=self.best, stale=self.stale, log_bytes=self.log.sync(), **self.trainable.state()
            )
            save_checkpoint(self.output / "checkpoints", state, keep=self.plan.config.keep_checkpoints)

        began = time.perf_counter()
        self.runtime.share_buffers(self.task.model)
        self.runtime.on_main(write)
        self.meter.pause(began)

    def _listen(self, wish: StopWish) -> None:
        """Save and stop where a process was told to.

        Raises:
            RunInterrupted: after the state was saved.
        """
        alone = self.runtime.world_size == 1
        if self.step == self.plan.num_steps:
            return
        if not (alone or self.step % _LISTEN_EVERY == 0) or not self.runtime.any(wish.caught is not None):
            return
        if self.meter.pending:
            self._flush()
        if not self.plan.saves(self.step):
            self._save()
        self._export_last()
        name = wish.caught.name if wish.caught else "a signal in another process"
        raise RunInterrupted(
            f"stopped by {name} after step {self.step} of {self.plan.num_steps}; the state is saved",
            hint=f"go on with: hfseg finetune --output {self.output} --resume",
            exit_code=wish.exit_code,
        )
