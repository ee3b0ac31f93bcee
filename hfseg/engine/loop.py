"""The training loop. There is one; training, distillation and video differ by the `loss_fn` they pass."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfseg.engine.checkpoint import TrainingState, replace_folder, save_checkpoint
from hfseg.engine.evaluation import prefetch
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
    """Scores of the current weights; `loss`, `mean_iou` and `overall_accuracy` among them."""
    export: Callable[[Path], None]
    """Write the current weights as a model folder."""
    unfreeze: Callable[[], None]
    unfreeze_step: int | None = None
    """The step before which frozen weights are set free; never where it is not given."""


@dataclass
class _Progress:
    """Where a run stands."""

    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = field(default_factory=list)
    """Losses that are still on the device: step, ids, terms."""
    images: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)


def fit(
    task: Task,
    plan: Plan,
    optim: OptimConfig,
    runtime: Runtime,
    output: Path,
    *,
    seed: int,
    state: TrainingState | None,
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
            loop = _Loop(task, plan, optim, runtime, output, seed, log, progress)
            return loop.run(state, wish)
    finally:
        log.close()


class _Loop:
    """One run under way."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        optim: OptimConfig,
        runtime: Runtime,
        output: Path,
        seed: int,
        log: RunLog,
        progress: TrainProgress,
    ) -> None:
        self.task, self.plan, self.optim, self.runtime = task, plan, optim, runtime
        self.output, self.seed, self.log, self.progress = output, seed, log, progress
        self.at = _Progress()

    def run(self, state: TrainingState | None, wish: StopWish) -> dict[str, float]:
        at, plan = self.at, self.plan
        if state is not None:
            at.step, at.best = state.step, dict(state.best)
        if self._thaws_before(at.step):
            self.task.unfreeze()
        if state is not None:
            self.task.model.load_state_dict(state.model)
        self._wrap()
        if state is not None:
            self._restore(state)
            self.log.write("resume", at.step)
        self.task.model.train()
        batches = prefetch(self._timed(self.task.batches(at.step * plan.config.accumulation)), self.runtime.device)
        while at.step < plan.num_steps:
            if at.step == self.task.unfreeze_step and at.step > 0:
                self._thaw()
            self._step(batches)
            if plan.logs(at.step):
                self._flush()
            if plan.validates(at.step):
                self._validate()
            if plan.saves(at.step):
                self._save()
            self.progress.advance(at.step)
            self._listen(wish)
        self._export("last")
        return at.best

    def _wrap(self) -> None:
        """Hand model and optimizer to Accelerate."""
        model, runtime = self.task.model, self.runtime
        self.optimizer = self.optim.build(model.to(runtime.device))
        self.wrapped, self.prepared = runtime.accelerator.prepare(model, self.optimizer)

    def _restore(self, state: TrainingState) -> None:
        self.optimizer.load_state_dict(state.optimizer)
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
        self.progress.say(f"step {self.at.step}: frozen weights are trained from here on")

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Measure how long the loop waits for data."""
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(source)
            self.at.waited += time.perf_counter() - asked
            yield batch

    def _step(self, batches: Iterator[Batch]) -> None:
        at, accelerator, count = self.at, self.runtime.accelerator, self.plan.config.accumulation
        lr = self.optim.lr_at(at.step, self.plan.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(int(np.random.SeedSequence((self.seed, at.step, self.runtime.rank)).generate_state(1)[0]))
        at.step += 1
        for micro in range(count):
            last = micro == count - 1
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                batch = self.task.augment(next(batches))
                terms = self.task.loss_fn(self.wrapped, batch)
                accelerator.backward(terms["total"] / count)
            at.pending.append((at.step, batch.ids, {name: value.detach() for name, value in terms.items()}))
            at.images += len(batch)
        if self.optim.clip_norm is not None:
            norm = accelerator.clip_grad_norm_(self.task.model.parameters(), self.optim.clip_norm)
            at.pending[-1][2]["grad_norm"] = norm
        self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)

    def _flush(self) -> None:
        """Fetch the losses since the last time, stop on one that is not finite, log their means.

        Raises:
            RunFailed: a loss is not finite in one of the processes.
        """
        at, runtime = self.at, self.runtime
        names = [name for name in at.pending[-1][2] if name != "grad_norm"]
        values = torch.stack([torch.stack([terms[name] for name in names]) for _, _, terms in at.pending])
        self._check_finite(values[:, names.index("total")].tolist())
        norms = [terms["grad_norm"] for _, _, terms in at.pending if "grad_norm" in terms]
        means = runtime.accelerator.reduce(values.float().mean(0), reduction="mean").tolist()
        seconds = time.perf_counter() - at.since
        record = self.log.write(
            "train",
            at.step,
            epoch=self.plan.epoch(at.step),
            lr=self.optimizer.param_groups[0]["lr"],
            **{"loss" if name == "total" else name: mean for name, mean in zip(names, means, strict=True)},
            **({"grad_norm": float(torch.stack(norms).mean())} if norms else {}),
            images_per_s=at.images * runtime.world_size / seconds,
            data_wait=at.waited / seconds,
            seconds=seconds,
        )
        if at.step % self.plan.config.log_every == 0 or at.step == self.plan.num_steps:
            self.progress.train(record)
        at.pending, at.images, at.waited, at.since = [], 0, 0.0, time.perf_counter()

    def _check_finite(self, totals: list[float]) -> None:
        bad = next((i for i, total in enumerate(totals) if not math.isfinite(total)), None)
        mine = None if bad is None else (self.at.pending[bad][0], totals[bad], self.at.pending[bad][1])
        found = [case for case in self.runtime.gather(mine) if case is not None]
        if not found:
            return
        step, total, ids = min(found)
        names = ", ".join(f"`{name}`" for name in ids)
        newest = sorted((self.output / "checkpoints").glob("step-*"))
        raise RunFailed(
            f"loss is {total} at step {step}: the batch holds {names}",
            hint=(f"the last good checkpoint is `{newest[-1]}`" if newest else "there is no checkpoint yet")
            + "; a lower --lr, `--set optim.clip_norm=1` or `--precision no` may help",
        )

    def _validate(self) -> None:
        began = time.perf_counter()
        self.runtime.share_buffers(self.task.model)
        scores = dict(self.task.validate())
        flags = {}
        for flag, (score, better) in BEST.items():
            before = self.at.best.get(score)
            flags[flag] = before is None or (scores[score] != before and better(scores[score], before) == scores[score])
            if flags[flag]:
                self.at.best[score] = scores[score]
        record = self.log.write(
            "validation",
            self.at.step,
            epoch=self.plan.epoch(self.at.step),
            **scores,
            seconds=time.perf_counter() - began,
            **flags,
        )
        self.progress.validation(record)
        for flag in (flag for flag in BEST if flags[flag]):
            self._export(flag.replace("_", "-"))
        self.at.since += time.perf_counter() - began

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
                step=self.at.step,
                model=self.task.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                best=self.at.best,
                log_bytes=self.log.sync(),
            )
            save_checkpoint(self.output / "checkpoints", state, keep=self.plan.config.keep_checkpoints)

        began = time.perf_counter()
        self.runtime.share_buffers(self.task.model)
        self.runtime.on_main(write)
        self.at.since += time.perf_counter() - began

    def _listen(self, wish: StopWish) -> None:
        """Save and stop where a process was told to.

        Raises:
            RunInterrupted: after the state was saved.
        """
        alone = self.runtime.world_size == 1
        if self.at.step == self.plan.num_steps:
            return
        if not (alone or self.at.step % _LISTEN_EVERY == 0) or not self.runtime.any(wish.caught is not None):
            return
        if self.at.pending:
            self._flush()
        if not self.plan.saves(self.at.step):
            self._save()
        self._export("last")
        name = wish.caught.name if wish.caught else "a signal in another process"
        raise RunInterrupted(
            f"stopped by {name} after step {self.at.step} of {self.plan.num_steps}; the state is saved",
            hint=f"go on with: hfseg finetune --output {self.output} --resume",
            exit_code=wish.exit_code,
        )
