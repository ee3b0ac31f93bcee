"""The training loop. There is one; training, distillation and video differ by the `loss_fn` they pass."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfseg.engine.best import Best
from hfseg.engine.capture import Capture
from hfseg.engine.checkpoint import TrainingState
from hfseg.engine.evaluation import prefetch
from hfseg.engine.meter import Meter
from hfseg.engine.norms import batch_norms_over
from hfseg.engine.optim import OptimConfig
from hfseg.engine.output import Output
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.engine.stop import StopWish, stop_on_signals
from hfseg.engine.task import Task
from hfseg.engine.tracking import RunLog, TrainProgress
from hfseg.engine.trainable import Trainable
from hfseg.errors import RunInterrupted
from hfseg.values import Batch

_LISTEN_EVERY = 8
"""Steps between two askings of all processes whether one of them was told to stop."""


def fit(
    task: Task, plan: Plan, optim: OptimConfig, runtime: Runtime, output: Path, *, state: TrainingState | None
) -> dict[str, float]:
    """Train until the plan is done and give the best scores by name.

    `output` gets `log.jsonl`, `checkpoints/`, `best-miou/`, `best-loss/` and `last/`. With `state`, the run goes on as
    if it had never stopped: random numbers are drawn from a generator that is seeded by (seed, step, rank).

    Raises:
        RunFailed: a loss or a gradient is not finite (names the step and the images; `nan/` gets the weights before
            it), or the disk is full.
        RunInterrupted: a signal asked to stop; the state was saved.
    """
    log = RunLog(output / "log.jsonl", runtime, keep_bytes=state.log_bytes if state else 0)
    start = state.step if state else 0
    try:
        with stop_on_signals() as wish, TrainProgress(plan.num_steps, runtime, start=start) as progress:
            return _Loop(task, plan, optim, runtime, Output(output, runtime), log, progress).run(state, wish)
    finally:
        log.close()


@dataclass
class _Loop:
    """One run under way."""

    task: Task
    plan: Plan
    optim: OptimConfig
    runtime: Runtime
    output: Output
    log: RunLog
    progress: TrainProgress
    step: int = 0
    """Optimizer steps that are done."""
    lr: float = 0.0
    """Learning rate of the last step, where the scale is 1."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.runtime)
        self.best = Best()

    def run(self, state: TrainingState | None, wish: StopWish) -> dict[str, float]:
        plan = self.plan
        self._start(state)
        batches = prefetch(
            self.meter.timed(self.task.batches(self.step * plan.config.accumulation)), self.runtime.device
        )
        while self.step < plan.num_steps and not self._is_stale():
            if self.step in self.task.unfreeze_steps:
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
        return self.best.scores

    def _start(self, state: TrainingState | None) -> None:
        """Put the model onto its devices, as it was when `state` was taken."""
        task = self.task
        if state is not None:
            self.step, self.best = state.step, Best(dict(state.best), state.stale)
            if task.unfreeze_steps:
                task.unfreeze(self.step - 1)  # as in the last step that is done: the optimizer's state is of then
            task.model.load_state_dict(state.model)
        self.trainable = Trainable(task.model, self.optim, self.runtime, depths=task.depths)
        if state is not None:
            self.trainable.restore(optimizer=state.optimizer, scaler=state.scaler, average=state.average)
        self.trainable.trained.train()
        self._introduce("start" if state is None else "resume")

    def _introduce(self, event: str) -> None:
        """Log what the processes share, and say it where there are several."""
        processes, sharding = self.runtime.world_size, self.runtime.config.sharding
        norms = batch_norms_over(self.trainable.trained, processes)
        self.log.write(event, self.step, processes=processes, sharding=sharding, batch_norms=norms)
        if processes > 1:
            shared = "sharded over them" if sharding == "fsdp" else "whole in each"
            self.progress.say(f"{processes} processes, weights {shared}; batch norms: {norms}")

    def _thaw(self) -> None:
        """Set frozen weights free."""
        self.task.unfreeze(self.step)
        self.trainable.rewrap()
        free = sum(value.numel() for value in self.trainable.trained.parameters() if value.requires_grad)
        self.progress.say(f"step {self.step}: {free:,} parameters are trained from here on")

    def _step(self, batches: Iterator[Batch]) -> None:
        trainable, task = self.trainable, self.task
        self.lr = self.optim.set_lr(trainable.optimizer, self.step, self.plan.num_steps)
        self.runtime.seed(task.seed, self.step)
        count = self.plan.config.accumulation
        passes, norm = trainable.take_step(self.step, batches, task.augment, task.loss_fn, count=count)
        self.step += 1
        for ids, terms in passes:
            self.meter.add(self.step, ids, terms)
        self.meter.add_norm(self.step, norm)

    def _flush(self) -> None:
        """Log the means since the last time, and stop where a loss or a gradient was not finite."""
        breakdown = self.meter.breakdown()
        if breakdown is not None:
            accumulation = self.plan.config.accumulation
            self.output.fail(Capture(breakdown, self.task.seed, self.runtime.world_size, accumulation), self.trainable)
        means = self.meter.fetch()
        record = self.log.write("train", self.step, epoch=self.plan.epoch(self.step), lr=self.lr, **means)
        self._log_left_out()
        if self.step % self.plan.config.log_every == 0 or self.step == self.plan.num_steps:
            self.progress.train(record)

    def _log_left_out(self) -> None:
        """Log which samples no process could read since the last time."""
        if self.task.left_out is None:
            return
        found: Counter[str] = sum(map(Counter, self.runtime.gather(dict(self.task.left_out()))), Counter())
        if found:
            self.log.write("left out", self.step, samples=found.total(), problems=dict(found))

    def _validate(self) -> None:
        began = time.perf_counter()
        with self.trainable.shown():
            self._score()
        self.meter.pause(began)

    def _score(self) -> None:
        """Score the weights that are in the model, log that, and export them where they are the best."""
        began = time.perf_counter()
        scores = dict(self.task.validate())
        flags = self.best.note(scores)
        record = self.log.write(
            "validation",
            self.step,
            epoch=self.plan.epoch(self.step),
            **scores,
            seconds=time.perf_counter() - began,
            **flags,
        )
        self.progress.validation(record)
        for flag in (flag for flag in flags if flags[flag]):
            self._export(flag.replace("_", "-"))
        if self._is_stale():
            self.log.write("early stop", self.step, validations=self.best.stale)
            self.progress.say(f"step {self.step}: stopped, {self.best.stale} validations without a better mIoU")

    def _is_stale(self) -> bool:
        """Whether the run has gone on for long enough without getting better."""
        return self.plan.config.patience is not None and self.best.stale >= self.plan.config.patience

    def _export_last(self) -> None:
        with self.trainable.shown():
            self._export("last")

    def _export(self, name: str) -> None:
        self.output.export(name, self.task.export)

    def _save(self) -> None:
        began = time.perf_counter()
        parts = self.trainable.state()
        self.output.save(lambda: self._state(parts), keep=self.plan.config.keep_checkpoints)
        self.meter.pause(began)

    def _state(self, parts: dict[str, Any]) -> TrainingState:
        best = self.best
        return TrainingState(step=self.step, best=best.scores, stale=best.stale, log_bytes=self.log.sync(), **parts)

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
            hint=f"go on with: hfseg finetune --output {self.output.path} --resume",
            exit_code=wish.exit_code,
        )
