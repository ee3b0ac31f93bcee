"""An exponential moving average of the weights, which is what is validated and saved where a run keeps one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hfseg.engine.sharding import local
from hfseg.engine.xla import unshared


class WeightAverage:
    """The average of a model's weights and moving statistics over the steps of a run.

    After step t the average moves by 1 - min(decay, (1 + t) / (10 + t)) towards the weights, so that the random
    weights of the start are soon forgotten. What is no floating-point number is taken over as it is.
    Source: Polyak and Juditsky, 1992; the start as TensorFlow's `ExponentialMovingAverage` has it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged.append(local(self.average[name]))
                current.append(local(value))
            else:
                self.average[name].copy_(unshared(value))
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averaged, current, 0)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights while the block runs, and its own back afterwards."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict({name: unshared(value) for name, value in self.average.items()})
        try:
            yield
        finally:
            model.load_state_dict(own)
