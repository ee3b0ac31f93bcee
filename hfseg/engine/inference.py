"""From images to class maps at the size that is asked for: the only place where predictions are made."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from hfseg.logits import argmax_at
from hfseg.values import SegOutput


@torch.inference_mode()
def whole(model: nn.Module, pixel_values: Shaped[Tensor, "b 3 h w"], size: tuple[int, int]) -> Int[Tensor, "b h2 w2"]:
    """Predict the class of every pixel from the whole image at once, at `size` (height, width).

    The logits are resized to `size` in strips, so memory does not grow with classes times pixels.
    """
    output: SegOutput = model(pixel_values)
    return argmax_at(output.logits, size)
