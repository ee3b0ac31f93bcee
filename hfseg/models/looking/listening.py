"""Catching what passes through a block in a forward pass, without asking the model for its attention.

`output_attentions` would make every layer keep the probabilities of all pairs: 1.1 GB for the first block of SegFormer
at 1024 x 2048, where one query needs 8 KB. Queries and keys exist anyway, so hooks on the projections cost nothing.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hfseg.models.looking.record import Place, View


@dataclass(frozen=True, slots=True)
class Heard:
    """What passed through one block."""

    block: Any
    """The module itself, as it is after the pass."""
    attention: Any
    """The module in it that attends."""
    outputs: tuple[Tensor, ...]
    """What `Family.listens` gave, in that order, for a batch of one image."""
    arguments: Mapping[str, Any]
    """What the attention was called with, by the names of its parameters."""


@dataclass(frozen=True, slots=True)
class Family:
    """How the attention of one family of encoders is read; a new family is one of these in a file of its own."""

    block: str
    """Name of the class whose calls are looked at."""
    listens: tuple[str, ...]
    """Modules below the block whose outputs `look` needs: the projections to queries and keys."""
    look: Callable[[Heard, tuple[int, int], Place], View]
    """What a query sees: (what was heard, rows and columns of the map, place of the query)."""
    stride: Callable[[Any, int], int]
    """Pixels between two queries: (the encoder's config, the stage from 0)."""
    attention: str = ""
    """The module below the block that attends; empty where it is the block itself."""
    rounds_up: bool = True
    """Whether an image whose size is no multiple of the stride has a last cell that is not full, or none."""


@contextmanager
def listening(block: nn.Module, family: Family, tell: Callable[[Heard], None]) -> Iterator[None]:
    """Call `tell` each time `block` has run inside the context; nothing is kept longer than the block's own call."""
    attention = block.get_submodule(family.attention)
    outputs: dict[str, Tensor] = {}
    arguments: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output.detach())

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.update(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

    def finish(module: nn.Module, _inputs: Any, _output: Any) -> None:
        tell(Heard(module, attention, tuple(outputs[name] for name in family.listens), dict(arguments)))
        outputs.clear()
        arguments.clear()

    handles = [block.get_submodule(name).register_forward_hook(keep(name)) for name in family.listens]
    handles.append(attention.register_forward_pre_hook(note, with_kwargs=True))
    handles.append(block.register_forward_hook(finish))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def probabilities(
    query: Float[Tensor, "heads d"],
    keys: Float[Tensor, "heads cells d"],
    *,
    scale: float | Float[Tensor, "heads 1"],
    bias: Float[Tensor, "heads cells"] | None = None,
) -> Float[Tensor, "heads cells"]:
    """Give the softmax of one query's scaled scores plus `bias`, in float32 at least."""
    kept = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("hd,hcd->hc", query.to(kept), keys.to(kept)) * scale
    return (scores if bias is None else scores + bias).softmax(-1)


def heads_of(tokens: Float[Tensor, "*cells c"], num_heads: int) -> Float[Tensor, "heads *cells d"]:
    """Divide channels among heads, which come first."""
    divided: Tensor = tokens.unflatten(-1, (num_heads, -1))
    return divided.movedim(-2, 0)


def all_places(grid: Sequence[int]) -> Tensor:
    """Row and column of every cell of a grid, row by row, on the host."""
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).view(-1, 2)
