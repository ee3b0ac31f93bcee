"""Lovasz-softmax: a convex surrogate of 1 - IoU."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from hfseg.logits import resize_logits, strips
from hfseg.losses.regions import class_pixels
from hfseg.losses.strip_sums import KeptGradient, precise


def lovasz(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h2 w2"], *, ignore_index: int
) -> Float[Tensor, ""]:
    """Average the Lovasz extension of the Jaccard loss over the classes that are labelled in the batch.

    The errors of all pixels of a class are sorted together, which no strip can do; so one class is taken at a time, and
    what is held at full size does not grow with their number. 0 where nothing is labelled. The device is waited for
    once, to learn which classes are there.
    Source: Berman et al., arXiv 1705.08790, eq. 9 and algorithm 1; classes that are present, over the whole batch.
    """
    counts = class_pixels(labels, logits.shape[1], ignore_index=ignore_index)
    present = [label for label, count in enumerate(counts.tolist()) if count]
    return _Lovasz.apply(logits, labels, labels.int() != ignore_index, present)  # type: ignore[no-any-return]


class _Lovasz(KeptGradient):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, kept: Tensor, present: list[int]) -> Tensor:
        scores = precise(logits)
        with torch.autocast(logits.device.type, enabled=False):
            if not logits.requires_grad:
                return _mean(scores, labels, kept, present)
            total, gradient = _mean_and_gradient(scores, labels, kept, present)
        KeptGradient.keep(ctx, gradient, logits)
        return total


def _mean(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    kept: Bool[Tensor, "b h2 w2"],
    present: list[int],
) -> Float[Tensor, ""]:
    """The loss alone, where nothing asks for a gradient: in validations."""
    size = (labels.shape[-2], labels.shape[-1])
    normalizer = _log_sum_exp(logits, size)
    total = logits.new_zeros(())
    for label in present:
        probability = (resize_logits(logits[:, label : label + 1], size)[:, 0] - normalizer).exp()
        total += _extension((labels == label) & kept, probability, kept)[0] / len(present)
    return total


def _mean_and_gradient(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h2 w2"],
    kept: Bool[Tensor, "b h2 w2"],
    present: list[int],
) -> tuple[Float[Tensor, ""], Float[Tensor, "b k h w"]]:
    """With p the probabilities and s the slopes of the mean by them, the gradient by the logits of class c is
    p_c s_c - p_c (sum of p s over the classes): the first part is had class by class, the second in strips afterwards.
    """
    size = (labels.shape[-2], labels.shape[-1])
    total, gradient = logits.new_zeros(()), torch.zeros_like(logits)
    normalizer = _log_sum_exp(logits, size)
    mixed = torch.zeros_like(normalizer)
    for label in present:
        source = logits[:, label : label + 1].detach().requires_grad_()
        with torch.enable_grad():
            resized = resize_logits(source, size)
        probability = (resized.detach()[:, 0] - normalizer).exp()
        value, slope = _extension((labels == label) & kept, probability, kept)
        total += value / len(present)
        flow = probability * slope / len(present)
        mixed += flow
        gradient[:, label : label + 1] += torch.autograd.grad(resized, source, flow[:, None])[0]
    for strip in strips(logits, size):
        part = logits[:, :, strip.source].detach().requires_grad_()
        with torch.enable_grad():
            resized = strip.resize(part, size[1])
        flow = resized.detach().softmax(1) * -mixed[:, None, strip.rows]
        gradient[:, :, strip.source] += torch.autograd.grad(resized, part, flow)[0]
    return total, gradient


def _log_sum_exp(logits: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Float[Tensor, "b h2 w2"]:
    """The logarithm of what the softmax divides by."""
    rows = [strip.resize(logits[:, :, strip.source], size[1]).logsumexp(1) for strip in strips(logits, size)]
    return torch.cat(rows, 1)


def _extension(
    is_class: Bool[Tensor, "b h w"], probability: Float[Tensor, "b h w"], kept: Bool[Tensor, "b h w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "b h w"]]:
    """Weight the errors of one class, from large to small, by what each adds to the Jaccard loss; give the slope by the
    probabilities too. An ignored pixel comes after all others and adds nothing.
    """
    signed = probability - is_class.to(probability.dtype)
    errors, order = signed.abs().where(kept, -1.0).flatten().sort(descending=True)
    hit = is_class.flatten()[order].to(probability.dtype)
    intersection = hit.sum() - hit.cumsum(0)
    union = hit.sum() + (1 - hit).cumsum(0)
    jaccard = 1 - intersection / union
    added = jaccard.diff(prepend=jaccard.new_zeros(1))
    slope = torch.empty_like(added).scatter_(0, order, added).view_as(signed)
    return errors.clamp(min=0) @ added, signed.sign() * slope * kept
