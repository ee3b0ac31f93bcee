"""What an encoder gives, seen by dry forwards. Nothing here knows an encoder by name."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from hfseg.errors import ModelError
from hfseg.models.segmenter import evaluating
from hfseg.models.sources import reason

STRIDES = (4, 8, 16, 32)
PROBE_SIZES = ((64, 96), (96, 64))
"""Height and width of the dry forwards: neither square nor of one orientation."""
ODD_SIZE = (70, 106)
"""A size that no stride divides."""
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""How the classes of Transformers and timm fail on a size they cannot take."""

Size = tuple[int, int]


class Kind(StrEnum):
    """What a decoder over four maps can do with an encoder."""

    PYRAMID = "pyramid"
    ONE_STRIDE = "through the neck"


@dataclass(frozen=True)
class Shape:
    """The shapes of the maps that an encoder gave at `PROBE_SIZES`, without the batch, and what it declares."""

    maps: tuple[tuple[tuple[int, ...], ...], ...]
    """For each size, the shape of each map."""
    declared: tuple[int, ...]
    """Channels that it says its maps have."""
    takes_any_size: bool
    """Whether it took `ODD_SIZE` too."""

    @property
    def ndim(self) -> int:
        """Dimensions of the maps, the batch among them."""
        return 1 + len(self.maps[0][0])

    @property
    def is_channels_last(self) -> bool:
        """Whether the maps are `b h w c`: their last dimension is the declared one, and is the same at every size."""
        ends = [tuple(shape[-1] for shape in given) for given in self.maps]
        return self.ndim == 4 and all(end == self.declared for end in ends) and self.channels != self.declared

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map."""
        return tuple(shape[0] for shape in self.maps[0])

    @property
    def strides(self) -> tuple[tuple[float, ...], ...]:
        """Pixels between neighbours on each map: by height, then by width, of each size."""
        return tuple(
            tuple(size[axis] / shape[1 + axis] for shape in given)
            for size, given in zip(PROBE_SIZES, self.maps, strict=True)
            for axis in (0, 1)
        )


def inspect(backbone: Any, name: str) -> Shape:
    """Run an encoder on images of several sizes and look at its maps.

    Raises:
        ModelError: it takes no images of these sizes; names the one it was made for where that works.
    """
    maps = []
    for size in PROBE_SIZES:
        try:
            maps.append(_shapes(backbone, size))
        except FAILURES as error:
            raise _cannot_take(backbone, name, size, error) from None
    return Shape(tuple(maps), tuple(backbone.channels), _takes(backbone, ODD_SIZE))


def judge(shape: Shape, name: str) -> Kind:
    """Say whether an encoder is a pyramid of strides 4, 8, 16, 32, or keeps one stride, which the neck mends.

    Raises:
        ModelError: it is neither; says what it gives.
    """
    if shape.ndim != 4 or shape.is_channels_last:
        layout = "b h w c" if shape.is_channels_last else "other dimensions"
        given = (1, *shape.maps[0][0])
        raise ModelError(f"encoder `{name}` gives maps of shape {given}, which is {layout}: expected b c h w")
    agrees = shape.channels == shape.declared
    if all(strides == STRIDES for strides in shape.strides):
        if agrees:
            return Kind.PYRAMID
        raise ModelError(
            f"encoder `{name}` gives maps of {list(shape.channels)} channels and declares {list(shape.declared)}: "
            "its class in Transformers cannot feed a decoder"
        )
    if agrees and all(len(set(given)) == 1 and len(given) == len(STRIDES) for given in shape.maps):
        return Kind.ONE_STRIDE
    rounded = ", ".join(f"{stride:.3g}" for stride in shape.strides[0])
    differing = "" if agrees else f", of {list(shape.channels)} channels where it declares {list(shape.declared)}"
    raise ModelError(
        f"encoder `{name}` gives maps at strides {rounded}{differing}: expected 4, 8, 16, 32",
        hint="it is no pyramid, nor does it give four maps of one stride, of which the neck makes one",
    )


def _shapes(backbone: Any, size: Size) -> tuple[tuple[int, ...], ...]:
    weight = next(backbone.parameters())
    image = torch.zeros(1, 3, *size, device=weight.device, dtype=weight.dtype)
    with evaluating(backbone), torch.no_grad():
        return tuple(tuple(each.shape[1:]) for each in backbone(image).feature_maps)


def _takes(backbone: Any, size: Size) -> bool:
    try:
        _shapes(backbone, size)
    except FAILURES:
        return False
    return True


def _cannot_take(backbone: Any, name: str, size: Size, error: Exception) -> ModelError:
    """Say why an encoder did not take a size, and which one it takes."""
    height, width = size
    declared = getattr(backbone.config, "image_size", None)
    own = (declared, declared) if isinstance(declared, int) else tuple(declared or ())
    fixed = f", though it takes {own[0]} x {own[1]}" if len(own) == 2 and _takes(backbone, own) else ""
    return ModelError(
        f"encoder `{name}` cannot take images of {height} x {width} pixels{fixed}: {reason(error)}",
        hint="an encoder must take any size that is a multiple of 32",
    )
