"""Cross entropy at the labels' own size, in strips."""

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hfseg.logits import strips


def cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    *,
    ignore_index: int,
    max_elements: int | None = None,
) -> Float[Tensor, ""]:
    """Average the cross entropy over the pixels that are not ignored; 0 where there are none.

    Logits are resized bilinearly to the labels. The gradient is computed strip by strip together with the loss, so
    logits at full size, which take 0.6 GB for 4 images of 512 x 512 and 150 classes, never exist as a whole: a strip
    has at most `max_elements` values.
    """
    return _StripCrossEntropy.apply(logits, labels, ignore_index, max_elements)  # type: ignore[no-any-return]


class _StripCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, max_elements: int | None) -> Tensor:
        wants_gradient = logits.requires_grad
        logits = logits.detach()
        precise = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        size = (labels.shape[-2], labels.shape[-1])
        count = (labels.int() != ignore_index).sum().clamp(min=1)
        gradient = torch.zeros_like(precise) if wants_gradient else None
        total = precise.new_zeros(())
        for strip in strips(precise, size, max_elements=max_elements):
            part = precise[:, :, strip.source].detach().requires_grad_(wants_gradient)
            with torch.set_grad_enabled(wants_gradient), torch.autocast(logits.device.type, enabled=False):
                resized = strip.resize(part, size[1])
                target = labels[:, strip.rows].long()
                loss = F.cross_entropy(resized, target, ignore_index=ignore_index, reduction="sum")
            total += loss.detach()
            if gradient is not None:
                gradient[:, :, strip.source] += torch.autograd.grad(loss, part)[0]
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
            ctx.dtype = logits.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0]).to(ctx.dtype), None, None, None  # narrowed last: a loss scale may exceed float16
