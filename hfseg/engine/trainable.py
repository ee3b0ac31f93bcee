"""What a run trains: a model, its optimizer and the average of its weights, on Accelerate's devices."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from hfseg.engine.ema import WeightAverage
from hfseg.engine.optim import OptimConfig, carry_over
from hfseg.engine.runtime import Runtime


class Trainable:
    """A model under training.

    `model` is the plain module, `wrapped` what must be called so that gradients are shared between processes.
    """

    def __init__(
        self, model: nn.Module, optim: OptimConfig, runtime: Runtime, *, depths: Mapping[str, int] | None = None
    ) -> None:
        self.model = model
        self.optim = optim
        self.runtime = runtime
        self.depths = depths
        self._wrap()
        self.average = None if optim.ema_decay is None else WeightAverage(model, optim.ema_decay)

    def _wrap(self) -> None:
        """Hand model and optimizer to Accelerate."""
        self.optimizer = self.optim.build(self.model.to(self.runtime.device), depths=self.depths)
        wrapped, self.prepared = self.runtime.accelerator.prepare(self.model, self.optimizer)
        self.wrapped = self.runtime.compiled(wrapped)

    def rewrap(self) -> None:
        """Go on with an optimizer that has weights too which have been set free since."""
        before = self.optimizer
        self.runtime.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.runtime.accelerator.free_memory()
        self._wrap()
        carry_over(before, self.optimizer)
        self.model.train()

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Share gradients between processes in the last batch of a step only."""
        return nullcontext() if last else self.runtime.accelerator.no_sync(self.wrapped)

    def update(self, step: int) -> Tensor | None:
        """Clip the gradients, move the weights and their average; give the norm of the gradients where it was found."""
        norm = None
        if self.optim.clip_norm is not None:
            norm = self.runtime.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm)
        self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step)
        return norm

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averaged weights into the model for a while, where they are kept."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint holds of it."""
        scaler = self.runtime.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else self.average.average,
        }

    def restore(
        self,
        *,
        optimizer: dict[str, Any],
        scaler: dict[str, Any] | None,
        average: Mapping[str, Tensor] | None,
    ) -> None:
        """Take over what a checkpoint holds, but for the weights, which the model had before it came here."""
        self.optimizer.load_state_dict(optimizer)
        if self.average is not None and average is not None:
            self.average.average = {name: value.to(self.runtime.device) for name, value in average.items()}
        if scaler is not None and self.runtime.accelerator.scaler is not None:
            self.runtime.accelerator.scaler.load_state_dict(scaler)
