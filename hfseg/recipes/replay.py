"""`hfseg finetune --replay`: do a step that went wrong once more, and find where its numbers stop being finite."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hfseg.data import Photometric
from hfseg.engine.capture import Capture, load_capture
from hfseg.engine.task import LossFn
from hfseg.errors import CheckpointError
from hfseg.models import freeze
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.teacher import make_objective, open_teacher
from hfseg.recipes.training import build_loss, build_model, open_data, train_batches
from hfseg.values import Batch


@dataclass(frozen=True)
class Replay:
    """What was found when a step was done again."""

    rank: int
    """The process whose batch it was."""
    ids: tuple[str, ...]
    losses: dict[str, float]
    where: str | None
    """The first thing that was not finite; None where everything was."""
    pixels: tuple[float, float]
    """Smallest and largest value of the augmented images."""
    labels: dict[int, float]
    """Share of the pixels of each label, the ignored one among them."""

    def to_text(self) -> str:
        """Say it in lines for a person."""
        shares = ", ".join(f"{label}: {100 * share:.2f} %" for label, share in self.labels.items())
        losses = ", ".join(f"{name} {value:.6g}" for name, value in self.losses.items())
        found = f"first not finite: {self.where}" if self.where else "everything was finite this time"
        return (
            f"{found}\nlosses: {losses}\nprocess {self.rank}, images {', '.join(self.ids)}\n"
            f"pixel values {self.pixels[0]:g} to {self.pixels[1]:g}\nlabels {shares}"
        )


def run(path: Path) -> Replay:
    """Load the weights before a step of RUN/nan/step-NNNNNN, make its batches again and do it with eyes open.

    This takes one process, with the precision and the random numbers of the run. Batch norms that counted over all
    processes see the images of one here.

    Raises:
        CheckpointError: there is no such step, or it belongs to no run.
    """
    capture, weights = load_capture(path)
    config = _settings(path, capture)
    runtime = config.runtime.start()
    train, _ = open_data(config, runtime)
    segmenter = build_model(config, train, runtime)
    freeze(segmenter, config.freeze.patterns(capture.breakdown.step - 1))
    loss, augment = build_loss(config, train), Photometric(config.augment)
    objective = make_objective(config, segmenter, loss, open_teacher(config, train, runtime), runtime)
    model = objective.model
    model.load_state_dict(weights)
    wrapped = runtime.accelerator.prepare_model(model.train(), evaluation_mode=True)
    for rank in capture.ranks:
        model.load_state_dict(weights)
        start = (capture.breakdown.step - 1) * capture.accumulation
        source = train_batches(config, train, runtime, start=start, rank=rank, world_size=capture.world_size)
        batches = [augment(batch.to(runtime.device)) for batch in islice(source, capture.breakdown.micro + 1)]
        runtime.seed(capture.seed, capture.breakdown.step - 1, rank=rank)
        found = _step(wrapped, model, batches, objective.loss_fn)
        if found.where is not None or rank == capture.ranks[-1]:
            return _described(found, batches[-1], rank)
    raise AssertionError("a step has at least one process")


def _settings(path: Path, capture: Capture) -> FinetuneConfig:
    """Read the settings of the run that a captured step lies in, as far as one process goes.

    The run may have gone on with other numbers than it was started with, but never with more images in a step.
    """
    run = RunFolder((path if path.is_dir() else path.parent).absolute().parents[1])
    if not run.config.is_file():
        raise CheckpointError(
            f"`{path}` lies in no run: `{run.config}` is missing", hint="leave it in RUN/nan/, where it was written"
        )
    config = run.settings()
    batch_size = math.prod(run.dealing()) // (capture.world_size * capture.accumulation)
    loader = config.loader.model_copy(update={"batch_size": batch_size, "workers": 0})
    runtime = config.runtime.model_copy(update={"num_processes": None, "sharding": "none", "trackers": ()})
    return config.model_copy(update={"loader": loader, "runtime": runtime, "verify_data": False})


@dataclass
class _Watched:
    """What a step did."""

    losses: dict[str, float] = field(default_factory=dict)
    where: str | None = None


def _step(wrapped: nn.Module, model: nn.Module, batches: list[Batch], loss_fn: LossFn) -> _Watched:
    """Do forward and backward on the batches of a step, and note the first thing that is not finite."""
    bad = [name for name, value in model.named_parameters() if not value.isfinite().all()]
    found = _Watched(where=f"weight `{bad[0]}`, before the step" if bad else None)
    model.zero_grad(set_to_none=True)
    with _watching(model, found):
        for batch in batches:
            terms = loss_fn(wrapped, batch)
            found.losses = {name: float(value.detach()) for name, value in terms.items()}
            infinite = [name for name, value in found.losses.items() if not math.isfinite(value)]
            if infinite and found.where is None:
                found.where = f"loss `{infinite[0]}`"
            (terms["total"] / len(batches)).backward()
    gradients = ((name, value.grad) for name, value in model.named_parameters() if value.grad is not None)
    infinite = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if infinite and found.where is None:
        found.where = f"gradient of `{infinite[0]}`"
    return found


@contextmanager
def _watching(model: nn.Module, found: _Watched) -> Iterator[None]:
    """Look at what each module gives, innermost first, and at the gradients that come back to it."""

    def look(value: Tensor, where: str) -> None:
        if found.where is None and not value.isfinite().all():
            found.where = where

    def hook(name: str) -> Any:
        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for value in _tensors(output):
                look(value, f"output of `{name}`")
                if value.requires_grad:
                    value.register_hook(lambda gradient: look(gradient, f"gradient of the output of `{name}`"))

        return after

    handles = [module.register_forward_hook(hook(name or "the model")) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    """Give the floating-point tensors in what a module gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        yield from (value for part in output.values() for value in _tensors(part))
    elif isinstance(output, list | tuple):
        yield from (value for part in output for value in _tensors(part))


def _described(found: _Watched, batch: Batch, rank: int) -> Replay:
    values, counts = batch.labels.unique(return_counts=True)
    shares = (counts / counts.sum()).tolist()
    return Replay(
        rank=rank,
        ids=batch.ids,
        losses=found.losses,
        where=found.where,
        pixels=(float(batch.pixel_values.min()), float(batch.pixel_values.max())),
        labels=dict(zip((int(value) for value in values), shares, strict=True)),
    )
