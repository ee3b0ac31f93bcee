"""A segmenter that also gives what its main classifier reads: student or teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from hfseg.errors import ModelError
from hfseg.models import anatomy
from hfseg.models.depth import Unit
from hfseg.models.segmenter import Segmenter
from hfseg.values import TappedOutput

AUXILIARY = "auxiliary"
"""What the names of the heads contain that are there for training only."""


class Tapped(nn.Module):
    """Gives `TappedOutput`: with features where `taps` says so, and these projected where a `width` is given.

    The projection, a 1 x 1 convolution, is a parameter of this module and not of the segmenter inside, which is what is
    validated and exported. Its first weights are a function of `seed`. In training, features have passed the dropout
    before the classifier.
    """

    def __init__(self, segmenter: Segmenter, *, taps: bool = False, width: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.tap = main_classifier(segmenter.hf) if taps else None
        self.projection = None if width is None else _projection(feature_width(segmenter.hf), width, seed)

    def forward(self, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> TappedOutput:
        """Segment images or clips, as the segmenter does."""
        if self.tap is None:
            return TappedOutput(self.segmenter(pixel_values))
        with _read_by(self.segmenter.hf.get_submodule(self.tap)) as maps:
            output = self.segmenter(pixel_values)
        features = maps[-1]  # of a clip, what is read for the current frame comes last
        return TappedOutput(output, features, None if self.projection is None else self.projection(features))

    def depths(self, *, by: Unit) -> dict[str, int]:
        """Give each parameter's depth, as the segmenter does; the projection lies as deep as the heads."""
        inside = {f"segmenter.{name}": depth for name, depth in self.segmenter.depths(by=by).items()}
        return inside | {name: max(inside.values()) for name, _ in self.named_parameters() if name not in inside}


def main_classifier(hf: Any) -> str:
    """Give the full name of the classifier of the main head.

    Raises:
        ModelError: there is none, or it reads no map.
    """
    name, layer = next((name, layer) for name, layer in anatomy.classifiers(hf).items() if AUXILIARY not in name)
    if not isinstance(layer, nn.Conv2d):
        raise ModelError(
            f"classifier `{name}` of `{type(hf).__name__}` reads no map: expected a convolution",
            hint="distil its logits alone: leave out `distill.feature` and `distill.pairwise`",
        )
    return name


def feature_width(hf: Any) -> int:
    """Give the number of channels that the main classifier reads."""
    return int(hf.get_submodule(main_classifier(hf)).in_channels)


def _projection(channels: int, width: int, seed: int) -> nn.Conv2d:
    projection = nn.Conv2d(channels, width, 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        projection.weight.normal_(std=channels**-0.5, generator=generator)
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]  # there is one
    return projection


@contextmanager
def _read_by(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what `module` is given while the block runs."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        handle.remove()
