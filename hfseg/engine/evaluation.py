"""Scoring a model on a whole set: every sample exactly once, whatever the number of processes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.runtime import Runtime
from hfseg.values import Batch, Counts, SegOutput

Count = Callable[[Tensor, Tensor], Counts]
"""(pred, labels) -> what is counted of a batch."""
Predict = Callable[[Batch], tuple[Int[Tensor, "b h w"], float | None]]
"""The class of every pixel of a batch, and the mean of its loss where there is one."""
Criterion = Callable[[SegOutput, Tensor], dict[str, Tensor]]
"""(output, labels) -> losses by name, `total` among them."""


@dataclass(frozen=True)
class Evaluation:
    """What was counted over a whole set, on the host."""

    totals: dict[str, Int[Tensor, "..."]]
    """Sums over the set, by name."""
    images: dict[str, Int[Tensor, "n ..."]]
    """Counts of each image, by name, in the order of the data set."""
    ids: tuple[str, ...]
    """The images, in the same order."""
    loss: float | None
    """The mean of the loss over the images; None unless each was seen whole and in a single view."""


@dataclass(frozen=True)
class _Counted:
    """What is kept of one batch, on the host."""

    ids: tuple[str, ...]
    images: dict[str, Tensor]
    loss: float | None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    protocol: ProtocolConfig,
    count: Count,
    criterion: Criterion | None,
    runtime: Runtime,
) -> Evaluation:
    """Predict every batch at its labels' own size, and put counts and losses together over all processes.

    The model is put into evaluation mode and back. For the rest see `tally`.

    Raises:
        ValueError: no process has a batch.
    """

    def predict(batch: Batch) -> tuple[Tensor, float | None]:
        views = protocol.views(model, batch.pixel_values)
        loss = None if criterion is None or views.output is None else criterion(views.output, batch.labels)["total"]
        return views.argmax((batch.labels.shape[-2], batch.labels.shape[-1])), None if loss is None else float(loss)

    was_training = model.training
    model.eval()
    try:
        return tally(batches, predict, count=count, runtime=runtime)
    finally:
        model.train(was_training)


def tally(batches: Iterable[Batch], predict: Predict, *, count: Count, runtime: Runtime) -> Evaluation:
    """Count what `predict` says of every batch, and put counts and losses together over all processes.

    Batch number i of process r must be number i * processes + r of the whole set. Counts are integers and losses are
    added exactly, so the result does not depend on how the batches were dealt out; a process may have none.

    Raises:
        ValueError: no process has a batch.
    """
    totals: dict[str, Tensor] = {}
    mine: list[_Counted] = []
    for batch in prefetch(batches, runtime.scoring_device):
        pred, loss = predict(batch)
        counts = count(pred, batch.labels)
        totals = _added(totals, counts.total)
        images = {name: values.cpu() for name, values in counts.images.items()}
        mine.append(_Counted(batch.ids, images, loss))
    shares = runtime.gather(({name: total.cpu() for name, total in totals.items()}, mine))
    return _together([total for total, _ in shares], [dealt for _, dealt in shares])


def _together(totals: Sequence[dict[str, Tensor]], shares: Sequence[list[_Counted]]) -> Evaluation:
    """Add up the totals of the processes and bring their batches back into one order."""
    batches = [batch for dealt in zip_longest(*shares) for batch in dealt if batch is not None]
    if not batches:
        raise ValueError("there is nothing to evaluate: got no batch in any process")
    summed: dict[str, Tensor] = {}
    for total in totals:
        summed = _added(summed, total)
    ids = tuple(name for batch in batches for name in batch.ids)
    losses = [len(batch.ids) * batch.loss for batch in batches if batch.loss is not None]
    return Evaluation(
        totals=summed,
        images={name: torch.cat([batch.images[name] for batch in batches]) for name in batches[0].images},
        ids=ids,
        loss=math.fsum(losses) / len(ids) if len(losses) == len(batches) else None,
    )


def _added(sums: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add counts by name; what is not there yet counts as 0."""
    return {**sums, **{name: sums[name] + value if name in sums else value for name, value in more.items()}}


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
