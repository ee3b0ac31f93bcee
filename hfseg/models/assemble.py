"""The last step of building a model to train: its labels, its normalization, and parameters that nothing uses."""

from typing import Any

import torch

from hfseg.labels import LabelSpace
from hfseg.models.labelling import write_labels
from hfseg.models.ops import freely_chosen
from hfseg.models.pixels import Pixels
from hfseg.models.segmenter import Segmenter, evaluating


def assemble(hf: Any, pixels: Pixels, labels: LabelSpace, *, new_parameters: tuple[str, ...]) -> Segmenter:
    """Make a Segmenter in training mode, with the labels in its config.

    Parameters that no output depends on (the final norm of a Swin under UPerNet, for instance) get no gradient:
    weight decay leaves them alone, and distributed training does not wait for them.
    """
    write_labels(hf.config, labels)
    segmenter = Segmenter(hf, pixels, new_parameters=new_parameters)
    segmenter.train()
    for name in unused_parameters(segmenter):
        hf.get_parameter(name).requires_grad_(False)
    return segmenter


def unused_parameters(segmenter: Segmenter) -> tuple[str, ...]:
    """Name the trainable parameters in `hf` that no training output depends on, found by a dry backward pass."""
    named = [(name, parameter) for name, parameter in segmenter.hf.named_parameters() if parameter.requires_grad]
    with evaluating(segmenter), freely_chosen(), torch.enable_grad():
        segmenter.training = True  # the auxiliary head's output counts; everything inside stays in evaluation mode
        logits, aux_logits = segmenter(segmenter.probe_images())
        total = logits.sum() if aux_logits is None else logits.sum() + aux_logits.sum()
        gradients = torch.autograd.grad(total, [parameter for _, parameter in named], allow_unused=True)
    return tuple(name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None)
