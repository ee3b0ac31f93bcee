"""Weights spread over processes (FSDP2): cut, put together, and spread again.

Source: Zhao et al., arXiv 2304.11277; `torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

LEAST = 2**18
"""Parameters of a part that is gathered by itself: fewer do not pay for the message (1 MiB in float32)."""
_LISTS = (nn.ModuleList, nn.Sequential)
Key = TypeVar("Key")


def shard(model: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """Leave each process 1 / `world_size` of every parameter, in place; parts are whole only while they compute."""
    mesh = init_device_mesh(device.type, (world_size,))
    for part in parts(model):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def parts(model: nn.Module, *, least: int = LEAST) -> list[nn.Module]:
    """Give the members of lists (blocks, stages) that have `least` parameters outside of parts of theirs, inner first.

    Other modules stay with the model itself: Transformers knows some of them by the name of their class, which
    sharding changes, and may use their weights without calling them.
    """
    return _cut(model, least)[0]


def _cut(module: nn.Module, least: int) -> tuple[list[nn.Module], int]:
    """Give the parts in a module, and the number of its parameters that are in none of them."""
    found: list[nn.Module] = []
    left = sum(value.numel() for value in module.parameters(recurse=False))
    for child in module.children():
        inside, count = _cut(child, least)
        is_part = count >= least and isinstance(module, _LISTS) and not isinstance(child, nn.ModuleList)
        found += [*inside, child] if is_part else inside
        left += 0 if is_part else count
    return found, left


def local(value: Tensor) -> Tensor:
    """Give this process's part of a tensor, in the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Put a tensor together from all processes; each of them must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(values: Mapping[Key, Tensor], *, keep: bool) -> dict[Key, Tensor]:
    """Put tensors together one by one, on the host, in the processes that `keep` them; each of them must call this.

    Tensors that are whole already stay where they are.
    """
    found = {}
    for key, value in values.items():
        full = whole(value.detach()).cpu() if isinstance(value, DTensor) else value
        if keep:
            found[key] = full
    return found


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Take this process's part of a tensor that each process has whole, cut as `like` is; of another shape, all."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
