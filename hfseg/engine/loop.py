"""The training loop. There is one; training, distillation and video differ by the `loss_fn` they pass."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfseg.engine.checkpoint import TrainingState, newest_first, replace_folder, save_checkpoint
from hfseg.engine.ema import WeightAverage
from hfseg.engine.evaluation import prefetch
from hfseg.engine.meter import Meter
from hfseg.engine.optim import OptimConfig, carry_over
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.engine.stop import StopWish, stop_on_signals
from hfseg.engine.tracking import RunLog, TrainProgress
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
    average: WeightAverage | None = None
    lr: float = 0.0
    """Learning rate of the last step, where the scale is 1."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.runtime)

    def run(self, state: TrainingState | None, wish: StopWish) -> dict[str, float]:
        plan = self.plan
        if state is not None:
            self.step, self.best, self.stale = state.step, dict(state.best), state.stale
        if self._thaws_before(self.step):
            self.task.unfreeze()
        if state is not None:
            self.task.model.load_state_dict(state.model)
        self._wrap()
        if state is not None:
            self._restore(state)
            self.log.write("resume", self.step)
        self.task.model.train()
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
            if plan.saves(self.step):
                self._save()
            self.progress.advance(self.step)
            self._listen(wish)
        if self._is_stale() and not plan.saves(self.step):
            self._save()
        with self._averaged():
            self._export("last")
        return self.best

    def _wrap(self) -> None:
        """Hand model and optimizer to Accelerate."""
        model, runtime = self.task.model, self.runtime
        self.optimizer = self.optim.build(model.to(runtime.device), depths=self.task.depths)
        wrapped, self.prepared = runtime.accelerator.prepare(model, self.optimizer)
        self.wrapped = runtime.compiled(wrapped)
        if self.average is None and self.optim.ema_decay is not None:
            self.average = WeightAverage(model, self.optim.ema_decay)

    def _restore(self, state: TrainingState) -> None:
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None and state.average is not None:
            self.average.average = {name: value.to(self.runtime.device) for name, value in state.average.items()}
        if state.scaler is not None and self.runtime.accelerator.scaler is not None:
            self.runtime.accelerator.scaler.load_state_dict(state.scaler)

    def _thaws_before(self, step: int) -> bool:
        return self.task.unfreeze_step is not None and step > self.task.unfreeze_step

    def _thaw(self) -> None:
        """Set frozen weights free and go on with an optimizer that has them too."""
        before = self.optimizer
        self.task.unfreeze()
        self.runtime.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.runtime.accelerator.free_memory()
        self._wrap()
        carry_over(before, self.optimizer)
        self.task.model.train()
        self.progress.say(f"step {self.step}: frozen weights are trained from here on")

    def _step(self, batches: Iterator[Batch]) -> None:
        accelerator, count = self.runtime.accelerator, self.plan.config.accumulation
        self.lr = self.optim.set_lr(self.optimizer, self.step, self.plan.num_steps)
        torch.manual_seed(
            int(np.random.SeedSequence((self.task.seed, self.step, self.runtime.rank)).generate_state(1)[0])
        )
        self.step += 1
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                batch = self.task.augment(next(batches))
                terms = self.task.loss_fn(self.wrapped, batch)
                accelerator.backward(terms["total"] / count)
            self.meter.add(self.step, batch.ids, terms)
        if self.optim.clip_norm is not None:
            norm = accelerator.clip_grad_norm_(self.task.model.parameters(), self.optim.clip_norm)
            self.meter.norms.append(norm)
        self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.task.model, self.step)

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
        with self._averaged():
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

    def _averaged(self) -> AbstractContextManager[None]:
        """Put the averaged weights into the model for a while, where the run keeps them."""
        return nullcontext() if self.average is None else self.average.applied(self.task.model)

    def _is_best(self, score: str, better: Callable[[float, float], float], value: float | None) -> bool:
        """Note a score and tell whether no earlier one was as good; one that is not known never is."""
        before = self.best.get(score)
        if value is None:
            return False
        if before is not None and (value == before or better(value, before) != value):
            return False
        self.best[score] = value
        return True

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
        scaler = self.runtime.accelerator.scaler

        def write() -> None:
            state = TrainingState(
                step=self.step,
                model=self.task.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                best=self.best,
                log_bytes=self.log.sync(),
                average=None if self.average is None else self.average.average,
                stale=self.stale,
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
        with self._averaged():
            self._export("last")
        name = wish.caught.name if wish.caught else "a signal in another process"
        raise RunInterrupted(
            f"stopped by {name} after step {self.step} of {self.plan.num_steps}; the state is saved",
            hint=f"go on with: hfseg finetune --output {self.output} --resume",
            exit_code=wish.exit_code,
        )
