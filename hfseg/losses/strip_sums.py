"""Sums over the pixels of resized logits, and their gradients, without the resized logits ever existing as a whole."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfseg.logits import Strip, strips

Measure = Callable[[Tensor, slice], Tensor]
"""(resized logits "b k rows w", the rows that these are) -> what is summed: a number or a vector."""


def strip_total(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], measure: Measure, *, max_elements: int | None = None
) -> Float[Tensor, ""]:
    """Add up a number over the strips of the logits at `size` (height, width).

    The gradient is computed strip by strip together with the sum: nothing is computed twice, and logits at full size,
    which take 0.6 GB for 4 images of 512 x 512 and 150 classes, do not exist. A strip has at most `max_elements`
    values.
    """
    return _Total.apply(logits, size, measure, max_elements)  # type: ignore[no-any-return]


def strip_sums(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], measure: Measure, *, max_elements: int | None = None
) -> Float[Tensor, " m"]:
    """Add up a vector over the strips of the logits at `size` (height, width).

    Backward computes every strip a second time, since how much each sum counts is known only then.
    """
    return _Sums.apply(logits, size, measure, max_elements)  # type: ignore[no-any-return]


class KeptGradient(torch.autograd.Function):
    """A number whose gradient was found together with it, and only has to be scaled.

    `forward` takes four inputs, of which the first are the logits, and calls `keep`.
    """

    @staticmethod
    def keep(ctx: Any, gradient: Tensor, logits: Tensor) -> None:
        """Keep the gradient of the logits until it is asked for."""
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale what was kept."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0]).to(ctx.dtype), None, None, None  # narrowed last: a loss scale may exceed float16


class _Total(KeptGradient):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, size: tuple[int, int], measure: Measure, max_elements: int | None) -> Tensor:
        scores = precise(logits)
        gradient = torch.zeros_like(scores) if logits.requires_grad else None
        total = scores.new_zeros(())
        for strip in strips(scores, size, max_elements=max_elements):
            part, found = _measured(scores, strip, size, measure, wants_gradient=gradient is not None)
            total += found.detach()
            if gradient is not None:
                gradient[:, :, strip.source] += torch.autograd.grad(found, part)[0]
        if gradient is not None:
            KeptGradient.keep(ctx, gradient, logits)
        return total


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, size: tuple[int, int], measure: Measure, max_elements: int | None) -> Tensor:
        scores = precise(logits)
        found = [
            _measured(scores, strip, size, measure, wants_gradient=False)[1]
            for strip in strips(scores, size, max_elements=max_elements)
        ]
        ctx.save_for_backward(logits)
        ctx.size, ctx.measure, ctx.max_elements = size, measure, max_elements
        return torch.stack(found).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (logits,) = ctx.saved_tensors
        scores = precise(logits)
        gradient = torch.zeros_like(scores)
        for strip in strips(scores, ctx.size, max_elements=ctx.max_elements):
            part, found = _measured(scores, strip, ctx.size, ctx.measure, wants_gradient=True)
            gradient[:, :, strip.source] += torch.autograd.grad(found, part, grads[0])[0]
        return gradient.to(logits.dtype), None, None, None


def precise(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Take logits out of the graph, in the precision in which they are scored: float32, or float64 where they are."""
    logits = logits.detach()
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def _measured(
    logits: Tensor, strip: Strip, size: tuple[int, int], measure: Measure, *, wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The source rows of a strip, and what is measured on it, which depends on them."""
    part = logits[:, :, strip.source].detach().requires_grad_(wants_gradient)
    with torch.set_grad_enabled(wants_gradient), torch.autocast(logits.device.type, enabled=False):
        return part, measure(strip.resize(part, size[1]), strip.rows)
