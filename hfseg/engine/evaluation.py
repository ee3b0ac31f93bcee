"""Scoring a model on a whole set: every sample exactly once, whatever the number of processes."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Int
from torch import Tensor, nn

from hfseg.engine.runtime import Runtime
from hfseg.logits import argmax_at
from hfseg.values import Batch, SegOutput

Count = Callable[[Tensor, Tensor], Int[Tensor, "k k"]]
"""(pred, labels) -> pixels by label and prediction."""
Criterion = Callable[[SegOutput, Tensor], dict[str, Tensor]]
"""(output, labels) -> losses by name, `total` among them."""


@dataclass(frozen=True)
class Evaluation:
    """The counts of a whole set and the mean of the loss over its images."""

    confusion: Int[Tensor, "k k"]
    loss: float
    images: int


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], *, count: Count, criterion: Criterion, runtime: Runtime
) -> Evaluation:
    """Predict every batch at its labels' own size, and add up counts and losses over all processes.

    Each process is given other batches. Counts are integers and losses are added in the order of the data set, so the
    result does not depend on how the batches were shared out. The model is put into evaluation mode and back.
    """
    was_training = model.training
    model.eval()
    confusion: Tensor | None = None
    losses: list[tuple[int, float]] = []
    try:
        for batch in prefetch(batches, runtime.device):
            output: SegOutput = model(batch.pixel_values)
            pred = argmax_at(output.logits, (batch.labels.shape[-2], batch.labels.shape[-1]))
            counted = count(pred, batch.labels)
            confusion = counted if confusion is None else confusion + counted
            losses.append((len(batch), float(criterion(output, batch.labels)["total"])))
    finally:
        model.train(was_training)
    return _together(confusion, losses, runtime)


def _together(confusion: Tensor | None, losses: list[tuple[int, float]], runtime: Runtime) -> Evaluation:
    shares = runtime.gather((None if confusion is None else confusion.cpu(), losses))
    counts = [matrix for matrix, _ in shares if matrix is not None]
    dealt = [item for _, share in shares for item in share]
    images = sum(size for size, _ in dealt)
    return Evaluation(
        confusion=torch.stack(counts).sum(0),
        loss=math.fsum(size * loss for size, loss in dealt) / images,
        images=images,
    )


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Give batches on `device`, the copy of the next one under way while this one is used."""
    ahead: Batch | None = None
    for batch in batches:
        following = batch.to(device, non_blocking=device.type == "cuda")
        if ahead is not None:
            yield ahead
        ahead = following
    if ahead is not None:
        yield ahead
