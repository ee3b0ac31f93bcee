"""What the loop is given to train. Training, distillation and video differ by the `loss_fn` in it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hfseg.values import Batch

Losses = dict[str, Tensor]
"""Terms of a loss by name, `total` among them."""
LossFn = Callable[[nn.Module, Batch], Losses]


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
    unfreeze: Callable[[int], None]
    """Freeze what is frozen at a step, counted from 0, and set the rest free."""
    seed: int
    """What dropout and the like are drawn from, together with step and rank."""
    depths: Mapping[str, int] | None = None
    """How deep each parameter lies, for learning rates that differ by depth."""
    left_out: Callable[[], Mapping[str, int]] | None = None
    """Problems of samples that were left out since the last time in this process, and how often; None where such a
    problem ends the run."""
    unfreeze_steps: tuple[int, ...] = ()
    """The steps before which other weights are set free than before."""
