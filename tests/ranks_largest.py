"""Started by torchrun in test_processes.py: finds the largest batch where one process can hold fewer images."""

import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfseg.engine.auto_batch import largest_batch
from hfseg.engine.loop import Task
from hfseg.engine.optim import OptimConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.values import Batch


class Full(nn.Module):
    """Has no memory for more than some images; its norm would wait for the other process in training."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.norm = nn.SyncBatchNorm(3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Give something that has a gradient."""
        if len(pixel_values) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.norm(pixel_values.float()).mean()


def nothing(*_: Any) -> Any:
    """Stand for what a search never calls."""
    raise AssertionError("neither validated nor written")


runtime = RuntimeConfig(cpu=True).start()
assert runtime.world_size == 2
images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
task = Task(
    Full(most=11 if runtime.is_main else 5),
    lambda start: repeat(Batch(images, images[:, 0], ("x", "y"))),
    lambda batch: batch,
    lambda model, batch: {"total": model(batch.pixel_values)},
    nothing,
    nothing,
    nothing,
    seed=0,
)
found = largest_batch(task, OptimConfig(), runtime, images=24)
Path(sys.argv[1], f"rank{runtime.rank}.txt").write_text(str(found))
