"""Class activation maps of a segmentation model: where a layer holds what speaks for a class in a region.

The score is the sum of the class's logits over the region, before any softmax, at the decoder's own stride: logits are
resized nowhere.

Source: Seg-Grad-CAM (Vinogradova, Dibrov, Myers, arXiv 2002.11434) takes this sum in the place of the one logit of a
classifier. The ways to weigh the channels are those of Grad-CAM (arXiv 1610.02391), Grad-CAM++ (arXiv 1710.11063),
LayerCAM (Jiang et al., IEEE TIP 2021) and HiResCAM (Draelos, Carin, arXiv 2011.08891).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from hfseg.errors import ModelError
from hfseg.explain.layers import Grid, Layer, frozen, to_map, watching

Method = Literal["gradcam", "gradcam++", "layercam", "hirescam"]

Channels = Float[Tensor, "b c h w"]
Heat = Float[Tensor, "b h w"]


def gradcam(maps: Channels, gradients: Channels) -> Heat:
    """Weigh each channel by the mean of its gradient."""
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1)


def gradcam_plus_plus(maps: Channels, gradients: Channels) -> Heat:
    """Weigh each channel by its positive gradients, each by how much of the score it explains alone.

    As in the paper the exponential of the score is derived, so that the second and third derivatives are powers of the
    first; its factor, the same everywhere, is left out.
    """
    squares = gradients**2
    denominators = 2 * squares + (maps.sum((2, 3), keepdim=True) * gradients**3)
    shares = torch.where(denominators == 0, 0, squares / torch.where(denominators == 0, 1, denominators))
    return ((shares * gradients.relu()).sum((2, 3), keepdim=True) * maps).sum(1)


def layercam(maps: Channels, gradients: Channels) -> Heat:
    """Weigh each value by its own gradient, where that is positive."""
    return (gradients.relu() * maps).sum(1)


def hirescam(maps: Channels, gradients: Channels) -> Heat:
    """Weigh each value by its own gradient."""
    return (gradients * maps).sum(1)


METHODS: dict[Method, Callable[[Channels, Channels], Heat]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "hirescam": hirescam,
}
assert set(METHODS) == set(get_args(Method))


@dataclass(frozen=True)
class Observation:
    """One image, or one clip, seen by a model: its logits, and what a layer held."""

    logits: Float[Tensor, "1 k h w"]
    layer: Layer
    held: Shaped[Tensor, "..."]
    """What the layer gave; a leaf of the graph that ends in the logits."""
    grids: list[Grid]

    def explain(self, class_id: int, region: Bool[Tensor, "h w"], method: Method) -> Float[Tensor, "h2 w2"]:
        """Map, at the layer's stride, what speaks for (above 0) and against (below 0) the class in the region.

        Of a clip, the map is that of the current frame, the frames in memory as they are. The papers show its positive
        part. May be called again for another class, region or method.

        Raises:
            ModelError: the logits do not depend on the layer.
        """
        score = self.logits[0, class_id][region].sum()
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, self.held, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ModelError(f"the logits do not depend on layer `{self.layer.name}`", hint="name another layer")
        of_current = (self.held.detach()[-1:], gradient[-1:])
        maps, gradients = (to_map(each, self.layer.layout, self.grids) for each in of_current)
        return METHODS[method](maps, gradients)[0]


@contextmanager
def observing(model: nn.Module, layer: Layer, pixel_values: Shaped[Tensor, "1 *t 3 h w"]) -> Iterator[Observation]:
    """Show an image or a clip to a model that gives a `SegOutput`, and keep no more than the graph from `layer` on.

    Raises:
        ModelError: the layer runs more than once in a forward pass, or what follows works in place on its output.
    """
    with frozen(model), torch.enable_grad():
        with watching(model, layer.module, cut=True) as seen, _in_place_told(layer.name):
            logits = model(pixel_values).logits
        if seen.calls != 1:
            raise ModelError(f"layer `{layer.name}` runs {seen.calls} times for an image: expected once")
        yield Observation(logits, layer, seen.maps[0], seen.grids)


@contextmanager
def _in_place_told(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "in-place" not in str(error):
            raise
        hint = "name the block around it, or the layer that follows"
        raise ModelError(f"the output of layer `{name}` is changed in place by what follows it", hint=hint) from None
