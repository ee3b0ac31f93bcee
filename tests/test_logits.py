"""Strips of resized logits against the whole, at every kind of size."""

import pytest
import torch
from torch.nn import functional as F

from hfseg.logits import argmax_at, resize_logits, strips

SIZES = [
    ((8, 10), (32, 40)),
    ((33, 20), (47, 99)),
    ((64, 83), (16, 21)),
    ((5, 7), (5, 7)),
    ((1, 1), (4, 5)),
    ((3, 9), (3, 4)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("max_elements", [1, 700, 10**9])
def test_joined_strips_equal_the_whole(source, target, max_elements):
    logits = torch.randn(2, 5, *source, dtype=torch.float64)
    parts = [
        strip.resize(logits[:, :, strip.source], target[1])
        for strip in strips(logits, target, max_elements=max_elements)
    ]
    whole = F.interpolate(logits, size=target, mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-12)
    assert max_elements > 1 or len(parts) == target[0]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_strips_pass_gradients_on_as_the_whole_does(source, target):
    logits = torch.randn(2, 5, *source, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, *target, dtype=torch.float64)
    whole = torch.autograd.grad((resize_logits(logits, target) * weights).sum(), logits)[0]
    parts = [
        (strip.resize(logits[:, :, strip.source], target[1]) * weights[:, :, strip.rows]).sum()
        for strip in strips(logits, target, max_elements=700)
    ]
    torch.testing.assert_close(torch.autograd.grad(sum(parts), logits)[0], whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_class_of_a_pixel_is_that_of_the_resized_logits(source, target):
    logits = torch.randn(2, 5, *source, dtype=torch.float64)
    assert torch.equal(argmax_at(logits, target), resize_logits(logits, target).argmax(1))


def test_a_strip_is_no_larger_than_it_may_be():
    logits = torch.randn(2, 10, 64, 64)
    largest = max(
        strip.resize(logits[:, :, strip.source], 256).numel()
        for strip in strips(logits, (256, 256), max_elements=50_000)
    )
    assert largest <= 50_000
