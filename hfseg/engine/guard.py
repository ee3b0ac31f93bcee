"""Weights that stay as they were before the first loss or gradient that is not finite."""

import torch
import torch.distributed
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hfseg.engine.runtime import Runtime


class Guard:
    """Remembers on the device that a step went wrong; the host learns of it when the losses are next fetched.

    A loss that is not finite makes its gradient NaN, and so that of every process. From that step on updates must be
    left out (`bad` is 1), and `restore` gives the buffers, which a forward pass moves, as they were before it.
    """

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.runtime = runtime
        self.bad: Float[Tensor, ""] = torch.zeros((), device=runtime.device)
        self._buffers: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            self._buffers.setdefault(buffer.dtype, []).append(buffer)
        self._kept = {dtype: _flat(buffers) for dtype, buffers in self._buffers.items()}

    @property
    def is_exact(self) -> bool:
        """Whether updates are left out at once; XLA would have to wait for the device in each step."""
        return self.runtime.device.type != "xla"

    def begin(self) -> None:
        """Note the buffers before a step: in one tensor for each type, since there are hundreds."""
        self._kept = {
            dtype: torch.where(self.bad > 0, self._kept[dtype], _flat(buffers))
            for dtype, buffers in self._buffers.items()
        }

    def watched(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Give a loss whose gradient is NaN once it, or one before it, was not finite, and otherwise the same."""
        self.bad = torch.maximum(self.bad, (~loss.detach().isfinite()).float())
        return loss * torch.where(self.bad > 0, torch.nan, 1.0)

    def settle(self, norm: Tensor | None) -> None:
        """Agree with the other processes, from the `norm` of the gradients that they share.

        In fp16 gradients may be infinite where the scale was too large, so that processes have to ask each other.
        """
        if self.runtime.accelerator.scaler is None and norm is not None:
            self.bad = torch.maximum(self.bad, (~norm.detach().isfinite()).float())
        elif self.runtime.world_size > 1:
            torch.distributed.all_reduce(self.bad, torch.distributed.ReduceOp.MAX)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the model its buffers as they were before the first bad step."""
        for dtype, buffers in self._buffers.items():
            parts = self._kept[dtype].split([buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


def _flat(buffers: list[Tensor]) -> Shaped[Tensor, " n"]:
    return torch.cat([buffer.detach().flatten() for buffer in buffers])
