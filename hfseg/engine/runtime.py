"""Processes, devices and precision: how a run starts on Accelerate."""

import atexit
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from pydantic import Field, PositiveInt
from torch import nn

from hfseg.config import Config
from hfseg.engine.xla import XLA, check_xla, correct_norms, seed_generators
from hfseg.errors import LaunchError


class DeviceConfig(Config):
    """Where a model computes; in float32, unless more is said."""

    cpu: bool = False
    """Compute on the CPU although there is an accelerator."""
    num_processes: PositiveInt | None = None
    """Stop with an error unless exactly this many processes run; any number where it is not given."""

    def start(self) -> "Runtime":
        """Join the other processes and pick the device.

        Raises:
            LaunchError: another number of processes runs than was asked for.
        """
        return RuntimeConfig(cpu=self.cpu, num_processes=self.num_processes).start()


class RuntimeConfig(DeviceConfig):
    """Where and in which precision a run trains."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of forward and backward; weights and optimizer state stay float32."""
    compile: bool = False
    """Compile what training calls with `torch.compile`."""
    channels_last: bool = False
    """Keep images and convolution weights in channels-last memory order."""
    gradient_checkpointing: bool = False
    """Recompute the encoder's activations in the backward pass, where the model can."""
    sharding: Literal["none", "fsdp"] = "none"
    """Keep all of the weights, gradients and optimizer state in each process, or a part of them (FSDP2)."""
    trackers: tuple[str, ...] = Field(default=(), examples=[["tensorboard"]])
    """Accelerate trackers by name, beside `log.jsonl`."""

    def start(self, output: Path | None = None) -> "Runtime":
        """Join the other processes and pick the device; trackers will write below `output`.

        Raises:
            LaunchError: another number of processes runs than was asked for, or precision or a tracker is not there.
        """
        check_launch(os.environ)
        self._check_trackers()
        accelerator = Accelerator(
            mixed_precision=self.precision,
            cpu=self.cpu,
            log_with=list(self.trackers) or None,
            project_dir=None if output is None else str(output),
        )
        if self.num_processes not in (None, accelerator.num_processes):
            raise LaunchError(
                f"`runtime.num_processes` is {self.num_processes}: got {accelerator.num_processes} running",
                hint=_LAUNCH_HINT,
            )
        if self.precision == "fp16" and accelerator.device.type == "cpu":
            raise LaunchError(
                "precision `fp16` needs a GPU: got device `cpu`", hint="use `--precision no` (or bf16 where it is fast)"
            )
        check_xla(accelerator.device, self.model_dump(), world_size=accelerator.num_processes)
        atexit.register(_leave)
        return Runtime(accelerator, self)

    def _check_trackers(self) -> None:
        there = {str(tracker) for tracker in get_available_trackers()}
        for name in self.trackers:
            if name not in there:
                known = ", ".join(sorted(str(kind) for kind in LOGGER_TYPE_TO_CLASS))
                raise LaunchError(
                    f"tracker `{name}` is not installed or not known",
                    hint=f"pip install 'hfseg[tracking]'; Accelerate knows {known}",
                )


def _leave() -> None:
    """Leave the other processes before this one ends: gloo's threads abort a process that ends beside them."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


_LAUNCH_HINT = (
    "on CPUs start with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node K -m hfseg ...`; "
    "on GPUs with `accelerate launch --num_processes K -m hfseg ...`"
)


def check_launch(environ: Mapping[str, str]) -> None:
    """Refuse a launch that asked for several processes and got one, or for sharding, of which the config must know.

    Accelerate's simple launcher (used for `--cpu`, and for MULTI_CPU without MPI) sets a rendezvous address exactly
    when more than one process was asked for, and starts one process without a rank.

    Raises:
        LaunchError: one of these is the case here.
    """
    if environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        hint = "leave out --use_fsdp and give `--set runtime.sharding=fsdp`"
        raise LaunchError("sharding is a setting of the run: `accelerate launch` was told to do it", hint=hint)
    launched = "ACCELERATE_MIXED_PRECISION" in environ and "MASTER_PORT" in environ
    ranked = any(name in environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"))
    if launched and not ranked:
        raise LaunchError(
            "several processes were asked for: `accelerate launch` started one (CPU processes need MPI there)",
            hint=_LAUNCH_HINT,
        )


@dataclass(frozen=True)
class Runtime:
    """One process of a run: its device, its rank, and how it talks to the others."""

    accelerator: Accelerator
    config: RuntimeConfig

    @property
    def device(self) -> torch.device:
        """The device on which this process computes."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def scoring_device(self) -> torch.device:
        """Where images and labels are put to be scored: the host of an XLA device, which compiles for every size."""
        return torch.device("cpu") if self.device.type == XLA else self.device

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return bool(self.accelerator.is_main_process)

    def open_trackers(self, settings: Mapping[str, Any]) -> None:
        """Start the trackers that were asked for and tell them the run's settings."""
        if self.config.trackers:
            self.accelerator.init_trackers("hfseg", config=dict(settings))

    def gather(self, value: Any) -> list[Any]:
        """Collect one picklable value from each process, in the order of the ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def on_main(self, action: Callable[[], Any]) -> None:
        """Run `action` in the main process while the others wait; an error there ends all of them."""
        error: Exception | None = None
        if self.is_main:
            try:
                action()
            except Exception as caught:  # handed to every rank, so that none waits for one that has gone
                error = caught
        for found in self.gather(error):
            if found is not None:
                raise found

    def ready(self, model: nn.Module) -> nn.Module:
        """Put a model into the memory order and give it the norms that were asked for, in place.

        On several GPUs batch norms count over all of them (SyncBatchNorm); on XLA their variances are put right.
        """
        if self.config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out of the stub
        if self.world_size > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return correct_norms(model) if self.device.type == XLA else model

    def compiled(self, model: Any) -> Any:
        """Compile what training calls, where that was asked for.

        Training crops have one size, so one compilation does; evaluation sees many sizes and stays as it is.
        """
        return torch.compile(model, dynamic=False) if self.config.compile else model

    def seed(self, seed: int, step: int, *, rank: int | None = None) -> None:
        """Seed what dropout and the like draw in a step, counted from 0: batches differ by rank, and so must it."""
        drawn = np.random.SeedSequence((seed, step, self.rank if rank is None else rank)).generate_state(1)
        seed_generators(int(drawn[0]), self.device)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the main process's buffers: batch-norm statistics drift apart between steps."""
        if self.world_size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def any(self, flag: bool) -> bool:
        """Tell whether `flag` is true in any process."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(count)
        return bool(count)
