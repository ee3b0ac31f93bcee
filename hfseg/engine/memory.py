"""What is said when the memory of a device does not suffice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hfseg.errors import RunFailed

_CPU = "DefaultCPUAllocator"
HINT = (
    "make `loader.batch_size` smaller (with `train.accumulation` larger) or `augment.crop_size`; "
    "`runtime.precision` and `runtime.gradient_checkpointing` save memory too"
)


@contextmanager
def out_of_memory_told(model: nn.Module, device: torch.device) -> Iterator[Callable[[torch.Size], None]]:
    """Turn running out of memory into an error that says how large everything is, and what to make smaller.

    Gives a function that is to be told the shape (b 3 h w, or b t 3 h w) of each batch before it is computed.

    Raises:
        RunFailed: the memory of `device` did not suffice.
    """
    shape: torch.Size | None = None

    def tell(of_batch: torch.Size) -> None:
        nonlocal shape
        shape = of_batch

    try:
        yield tell
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the allocator of the CPU raises it plain
        if not isinstance(error, torch.OutOfMemoryError) and _CPU not in str(error):
            raise
        raise RunFailed(f"memory of `{device}` does not suffice: {_sizes(model, device, shape)}", hint=HINT) from None


def _sizes(model: nn.Module, device: torch.device, shape: torch.Size | None) -> str:
    """Say how large batch, model and memory are."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parts = [] if shape is None else [f"{_images(shape)} of {shape[-1]} x {shape[-2]} pixels in a batch"]
    parts.append(f"{parameters / 1e6:,.1f} million parameters")
    if device.type == "cuda":
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
        ours = torch.cuda.max_memory_allocated(device) / 2**30
        parts.append(f"{total:.1f} GiB of memory, of which this run had up to {ours:.1f} and {free:.1f} are free")
    return ", ".join(parts)


def _images(shape: torch.Size) -> str:
    return f"{shape[0]} images" if len(shape) == 4 else f"{shape[0]} clips of {shape[1]} frames"
