"""A layer inside a model: how its output lies in memory, and what it gives while the model sees an image.

Three layouts are told apart: maps with the channels first ("b c h w"), maps with the channels last ("b h w c": blocks
of NAT and DiNAT, Swin in timm) and token sequences ("b n c": blocks of SegFormer, Swin and plain transformers), whose
first tokens may be no places of the image (class token, registers). The rows and columns of a sequence are those of a
map that a convolution before it gave, halved where tokens were merged since.

A model with memory is shown clips, the current frame last: the encoder's layers give a map of every frame, of which the
last is that of the current one, and what follows the read of memory gives one map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hfseg.errors import ModelError

Grid = tuple[int, int]
MERGES = 5
"""How often tokens are merged, two by two, after the last convolution at the most; Swin does it three times."""
MAX_EXTRA_TOKENS = 16
"""Tokens that stand before those of the image at the most: one for the class, and registers."""
PROBE_STEP = 32
"""The sides of a probe are multiples of this: the coarsest stride there is."""


class Layout(StrEnum):
    """The meaning of the dimensions of a layer's output."""

    FIRST = "b c h w"
    LAST = "b h w c"
    TOKENS = "b n c"


@dataclass(frozen=True)
class Layer:
    """A layer whose output is one map, and how the map lies in it."""

    name: str
    module: nn.Module
    layout: Layout


@dataclass
class Seen:
    """What a layer gave in one forward pass."""

    maps: list[Tensor] = field(default_factory=list)
    """The maps in the layer's output."""
    calls: int = 0
    grids: list[Grid] = field(default_factory=list)
    """Rows and columns of the maps that convolutions gave up to then, the last one last."""


class _Reached(Exception):  # no error: it ends a forward pass whose rest nobody needs
    """The layer has given its output."""


@contextmanager
def watching(model: nn.Module, module: nn.Module, *, cut: bool = False, stop: bool = False) -> Iterator[Seen]:
    """See what `module` gives while `model` runs inside the block.

    With `cut`, its map becomes a leaf of the graph: gradients are computed from there on, and where no parameter wants
    one nothing is kept of what comes before. The map stays the same tensor, because Transformers keeps the outputs of
    stages aside for the decoder. With `stop`, the pass ends at the module.
    """
    seen = Seen()

    def note_grid(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if not seen.calls:
            seen.grids.append((output.shape[-2], output.shape[-1]))

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.calls += 1
        seen.maps = _maps(output)
        if stop:
            raise _Reached
        if cut and len(seen.maps) == 1:
            seen.maps[0].requires_grad_()

    convolutions = (inner for inner in model.modules() if isinstance(inner, nn.Conv2d))
    handles = [inner.register_forward_hook(note_grid) for inner in convolutions]
    handles.append(module.register_forward_hook(note))
    try:
        yield seen
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Compute no gradients of parameters inside the block."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad = True


@torch.no_grad()
def find_layer(model: nn.Module, name: str, pixel_values: Shaped[Tensor, "1 *t 3 h w"]) -> Layer:
    """Find a layer of `model` by the full name of its module, and how its map lies, by showing it an image or a clip.

    Of a stage that also gives the map it hands to the next one, the last block is taken: its output is the one map from
    which all others are made, so that a gradient with respect to it misses no way to the logits.

    Raises:
        ModelError: the model does not use the module, or its output is not one map over the image, or of a clip it is
            not that of the current frame.
    """
    image = current(pixel_values)
    seen = _look(model, name, image)
    if len(seen.maps) > 1:
        block = _last_block(model.get_submodule(name))
        if block is None:
            raise ModelError(f"layer `{name}` gives {len(seen.maps)} maps: expected one", hint="name a block inside it")
        name = f"{name}.{block}"
        seen = _look(model, name, image)
    shape = _one_map(seen, name).shape
    layouts = _layouts(shape, seen.grids)
    if len(layouts) == 2:
        layouts = _probed(model, name, image, shape)
    if shape[0] != 1 or len(layouts) != 1:
        raise ModelError(
            f"layer `{name}` gives {_by(shape)} values: expected a map over the image, or one token for each place",
            hint="name a stage, a block or a convolution; what works inside windows or heads has no map of its own",
        )
    if pixel_values.ndim == 5:
        _check_current(model, name, pixel_values, shape)
    return Layer(name, model.get_submodule(name), layouts[0])


def current(pixel_values: Shaped[Tensor, "1 *t 3 h w"]) -> Shaped[Tensor, "1 3 h w"]:
    """Give the image, or the current frame of the clip, that a model is shown."""
    return pixel_values if pixel_values.ndim == 4 else pixel_values[:, -1]


def to_map(values: Float[Tensor, "..."], layout: Layout, grids: list[Grid]) -> Float[Tensor, "b c h w"]:
    """Bring a layer's output, or the gradient with respect to it, into the form of a map with the channels first."""
    if layout is Layout.FIRST:
        return values
    if layout is Layout.LAST:
        return values.permute(0, 3, 1, 2)
    height, width = token_grid(values.shape[1], grids) or (1, values.shape[1])
    tokens = values[:, values.shape[1] - height * width :]
    maps: Float[Tensor, "b c h w"] = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return maps


def token_grid(count: int, grids: list[Grid]) -> Grid | None:
    """Find the rows and columns that `count` tokens stand for, after the tokens that are no places of the image."""
    fitting = [grid for grid in _candidates(grids) if 0 <= count - grid[0] * grid[1] <= MAX_EXTRA_TOKENS]
    return max(fitting, key=lambda grid: grid[0] * grid[1], default=None)


def _check_current(model: nn.Module, name: str, clip: Shaped[Tensor, "1 t 3 h w"], shape: tuple[int, ...]) -> None:
    """See that what a layer gives for a clip ends in what it gives for an image, of `shape`: of the current frame."""
    other = clip.clone()
    other[:, -1] = other[:, -1] == 0  # another pixel everywhere
    ours, theirs = (_one_map(_look(model, name, shown), name) for shown in (clip, other))
    if ours.shape[1:] != shape[1:] or ours.shape[0] not in (1, clip.shape[1]) or torch.equal(ours[-1], theirs[-1]):
        raise ModelError(
            f"layer `{name}` gives no map of the current frame when the model is shown clips",
            hint="name a stage of the encoder, or what follows the read of memory, as `head.classifier`",
        )


def _look(model: nn.Module, name: str, pixel_values: Shaped[Tensor, "1 *t 3 h w"]) -> Seen:
    with watching(model, model.get_submodule(name), stop=True) as seen:
        model(pixel_values)
    return seen


def _one_map(seen: Seen, name: str) -> Tensor:
    if not seen.calls:
        raise ModelError(f"layer `{name}` takes no part in a prediction", hint="auxiliary heads work in training only")
    if len(seen.maps) != 1:
        raise ModelError(f"layer `{name}` gives {len(seen.maps)} maps: expected one", hint="name another layer")
    return seen.maps[0]


def _layouts(shape: tuple[int, ...], grids: list[Grid]) -> list[Layout]:
    """The layouts that fit the shape of an output, given the maps that stood before it."""
    if len(shape) == 3:
        return [Layout.TOKENS] if token_grid(shape[1], grids) else []
    if len(shape) != 4:
        return []
    known = _candidates(grids)
    fitting = [(Layout.FIRST, shape[2:]), (Layout.LAST, shape[1:3])]
    return [layout for layout, grid in fitting if grid in known]


def _probed(
    model: nn.Module, name: str, pixel_values: Shaped[Tensor, "1 3 h w"], shape: tuple[int, ...]
) -> list[Layout]:
    """Tell places from channels by an image of another size: the number of channels stays."""
    sides = [_other_side(side) for side in pixel_values.shape[-2:]]
    other = _one_map(_look(model, name, pixel_values.new_zeros(1, 3, *sides)), name).shape
    return [layout for layout, axis in ((Layout.FIRST, 1), (Layout.LAST, 3)) if other[axis] == shape[axis]]


def _other_side(side: int) -> int:
    """Half of a side in whole steps, or twice a side that has only two of them."""
    return side * 2 if side <= 2 * PROBE_STEP else -(-side // 2 // PROBE_STEP) * PROBE_STEP


def _candidates(grids: list[Grid]) -> set[Grid]:
    """The maps that convolutions gave, and what is left of them after merging two by two."""
    return {(-(-rows // 2**times), -(-columns // 2**times)) for rows, columns in grids for times in range(MERGES + 1)}


def _last_block(stage: nn.Module) -> str | None:
    """The name inside a stage of its last block: the last entry of its last list of modules."""
    lists = [
        (name, child) for name, child in stage.named_children() if isinstance(child, nn.ModuleList | nn.Sequential)
    ]
    name, blocks = next(((name, child) for name, child in reversed(lists) if len(child)), ("", nn.ModuleList()))
    return f"{name}.{len(blocks) - 1}" if len(blocks) else None


def _maps(output: Any) -> list[Tensor]:
    """The tensors in an output that can be maps or tokens, in order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() and output.ndim >= 3 else []
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _maps(part)]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
