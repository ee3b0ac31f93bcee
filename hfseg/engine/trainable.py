"""What a run trains: a model, its optimizer and the average of its weights, on Accelerate's devices."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hfseg.engine.ema import WeightAverage
from hfseg.engine.guard import Guard
from hfseg.engine.memory import out_of_memory_told
from hfseg.engine.optim import OptimConfig, carry_over
from hfseg.engine.runtime import Runtime
from hfseg.engine.sharding import gathered, shard, spread, whole
from hfseg.engine.task import Losses, LossFn
from hfseg.engine.xla import cut_graph
from hfseg.errors import LaunchError
from hfseg.values import Batch


class Trainable:
    """A model under training.

    `model` is the plain module, which validation and exports see; `trained` holds the weights that move, and is the
    same module unless they are sharded; `wrapped` is what must be called so that gradients are shared between
    processes.
    """

    def __init__(
        self, model: nn.Module, optim: OptimConfig, runtime: Runtime, *, depths: Mapping[str, int] | None = None
    ) -> None:
        self.model = model
        self.optim = optim
        self.runtime = runtime
        self.depths = depths
        if self._is_deepspeed and optim.clip_norm is not None:
            raise LaunchError(
                "`optim.clip_norm` has no effect under DeepSpeed, which keeps the gradients to itself",
                hint="leave it out, and set gradient_clipping in the config of `accelerate launch`",
            )
        self._wrap()
        self.average = None if optim.ema_decay is None else WeightAverage(self.trained, optim.ema_decay)
        cut_graph(runtime.device)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of every weight."""
        return self.runtime.config.sharding == "fsdp"

    @property
    def _is_deepspeed(self) -> bool:
        return bool(self.runtime.accelerator.distributed_type == DistributedType.DEEPSPEED)

    def _wrap(self) -> None:
        """Hand model and optimizer to Accelerate."""
        accelerator = self.runtime.accelerator
        if self.is_sharded:  # Accelerate does not shard on CPUs; what it adds here is mixed precision
            self.trained = shard(copy.deepcopy(self.model), self.runtime.device, self.runtime.world_size)
            self.optimizer = self.optim.build(self.trained, depths=self.depths)
            wrapped = accelerator.prepare_model(self.trained, evaluation_mode=True)
            self.prepared = accelerator.prepare_optimizer(self.optimizer)
        else:
            self.trained = self.model.to(self.runtime.device)
            self.optimizer = self.optim.build(self.trained, depths=self.depths)
            wrapped, self.prepared = accelerator.prepare(self.trained, self.optimizer)
        self.wrapped = self.runtime.compiled(wrapped)
        self.guard = Guard(self.trained, self.runtime)

    def rewrap(self) -> None:
        """Go on with an optimizer that has weights too which have been set free since."""
        before = self.optimizer
        self.runtime.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.runtime.accelerator.free_memory()
        self._wrap()
        carry_over(before, self.optimizer)
        self.model.train()
        cut_graph(self.runtime.device)

    def take_step(
        self,
        step: int,
        batches: Iterator[Batch],
        augment: Callable[[Batch], Batch],
        loss_fn: LossFn,
        *,
        count: int,
    ) -> tuple[list[tuple[tuple[str, ...], Losses]], Tensor | None]:
        """Take optimizer step `step`, counted from 0, with the mean gradient of the next `count` batches.

        Give the ids and the losses of each, without their graphs, and the norm of the gradient.

        Raises:
            RunFailed: the device has not enough memory.
        """
        self.guard.begin()
        passes = []
        with out_of_memory_told(self.model, self.runtime.device) as tell:
            for number in range(count):
                with self._accumulating(last=number == count - 1):
                    batch = next(batches)
                    tell(batch.pixel_values.shape)
                    losses = loss_fn(self.wrapped, augment(batch))
                    self._backward(losses["total"] / count)
                passes.append((batch.ids, {name: value.detach() for name, value in losses.items()}))
            return passes, self.update(step + 1)

    def update(self, step: int) -> Tensor | None:
        """Clip the gradients, move the weights and their average; give the norm that the gradients had.

        Where a loss or the norm was not finite, in this step or before, nothing moves. DeepSpeed keeps the gradients
        to itself: there is no norm then.
        """
        self.runtime.accelerator.unscale_gradients()
        norm = self._clipped()
        self.guard.settle(norm)
        if self._moves():
            self.prepared.step()
        self.prepared.zero_grad(set_to_none=True)
        cut_graph(self.runtime.device)
        if self.average is not None:
            self.average.update(self.trained, step)
            cut_graph(self.runtime.device)  # apart from the next step, whose numbers the changing decay may equal
        return norm

    def _accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Share gradients between processes in the last batch of a step only; where they are sharded, in each."""
        return nullcontext() if last or self.is_sharded else self.runtime.accelerator.no_sync(self.wrapped)

    def _backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self.runtime.accelerator.backward(self.guard.watched(loss))
        cut_graph(self.runtime.device)

    def _clipped(self) -> Tensor | None:
        gradients = [value.grad for value in self.trained.parameters() if value.grad is not None]
        if not gradients:
            return None
        norm = get_total_norm(gradients)
        if self.optim.clip_norm is not None:
            clip_grads_with_norm_(self.trained.parameters(), self.optim.clip_norm, norm)
        return whole(norm)

    def _moves(self) -> bool:
        """Tell whether the optimizer is to be called; a fused one leaves out a step on the device, without a wait."""
        if self.runtime.accelerator.scaler is not None or not self.guard.is_exact:
            return True  # the scaler leaves out gradients that are not finite, which they are from a bad loss on
        if all(group["fused"] for group in self.optimizer.param_groups):
            self.optimizer.found_inf = self.guard.bad  # type: ignore[attr-defined]  # read by fused optimizers
            return True
        return not bool(self.guard.bad)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let `model` hold the weights that are validated and exported, the same in every process, for a while.

        These are the averaged ones, where they are kept. Every process must come here.
        """
        averaged = nullcontext() if self.average is None else self.average.applied(self.trained)
        with averaged:
            if self.is_sharded:
                self._put_together()
            self.runtime.share_buffers(self.model)
            cut_graph(self.runtime.device)
            yield
        if self.is_sharded:
            self.model.to("cpu")
        cut_graph(self.runtime.device)

    @torch.no_grad()
    def _put_together(self) -> None:
        """Copy the sharded weights into the plain model, one after the other."""
        plain = self.model.to(self.runtime.device).state_dict()
        for name, value in self.trained.state_dict().items():
            plain[name].copy_(whole(value))

    def weights(self) -> dict[str, Tensor]:
        """Give all weights, whole, in the main process; every process must come here."""
        return gathered(self.trained.state_dict(), keep=self.runtime.is_main)

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint holds of it, whole, in the main process; every process must come here."""
        self.runtime.share_buffers(self.trained)
        scaler, keep = self.runtime.accelerator.scaler, self.runtime.is_main
        optimizer = self.optimizer.state_dict()
        return {
            "model": self.weights(),
            "optimizer": {
                "state": {number: gathered(values, keep=keep) for number, values in optimizer["state"].items()},
                "param_groups": optimizer["param_groups"],
            },
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else gathered(self.average.average, keep=keep),
        }

    def restore(
        self,
        *,
        optimizer: dict[str, Any],
        scaler: dict[str, Any] | None,
        average: Mapping[str, Tensor] | None,
    ) -> None:
        """Take over what a checkpoint holds, but for the weights, which the model had before it came here.

        Raises:
            LaunchError: DeepSpeed holds the optimizer's state.
        """
        if self._is_deepspeed:
            raise LaunchError("a run under DeepSpeed cannot be resumed", hint="use --set runtime.sharding=fsdp")
        parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        state = {
            number: {name: spread(value, parameters[number]) for name, value in values.items()}
            for number, values in optimizer["state"].items()
        }
        self.optimizer.load_state_dict({**optimizer, "state": state})
        if self.average is not None and average is not None:
            like = self.trained.state_dict()
            self.average.average = {
                name: spread(value, like[name]).to(self.runtime.device) for name, value in average.items()
            }
        if scaler is not None and self.runtime.accelerator.scaler is not None:
            self.runtime.accelerator.scaler.load_state_dict(scaler)
