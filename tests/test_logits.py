"""Strips of resized logits against the whole, at every kind of size."""

import pytest
import torch
from torch.nn import functional as F

from hfseg.logits import Strip, resize_logits, strip_rows, strips

SIZES = [
    ((8, 10), (32, 40)),
    ((33, 20), (47, 99)),
    ((64, 83), (16, 21)),
    ((5, 7), (5, 7)),
    ((1, 1), (4, 5)),
    ((3, 9), (3, 4)),
]


def argmax_in_strips(logits, target, max_elements):
    parts = [
        strip.argmax(logits[:, :, strip.source], target[1])
        for strip in strips(logits, target, max_elements=max_elements)
    ]
    return torch.cat(parts, 1)


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
@pytest.mark.parametrize("max_elements", [1, 700, 10**9])
def test_the_class_of_a_pixel_is_that_of_the_resized_logits(source, target, max_elements):
    logits = torch.randn(2, 5, *source, dtype=torch.float64)
    whole = resize_logits(logits, target).argmax(1)
    assert torch.equal(argmax_in_strips(logits, target, max_elements), whole)


@pytest.mark.parametrize("num_labels", [1, 2, 150])
@pytest.mark.parametrize("roughness", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("max_elements", [20_000, 10**9])
def test_classes_of_smooth_and_of_rough_maps_are_those_of_the_resized_logits(num_labels, roughness, max_elements):
    smooth = resize_logits(torch.randn(2, num_labels, 3, 4), (40, 30))
    logits = smooth + roughness * torch.randn_like(smooth)
    whole = resize_logits(logits, (97, 121)).argmax(1)
    assert torch.equal(argmax_in_strips(logits, (97, 121), max_elements), whole)


def test_a_third_class_may_win_between_two_columns():
    logits = torch.tensor([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0]]).view(1, 3, 1, 2)
    assert argmax_in_strips(logits, (1, 8), 100).tolist() == [[[0, 0, 0, 1, 1, 2, 2, 2]]]


def test_of_equal_classes_the_first_wins():
    logits = torch.randn(1, 1, 9, 9).expand(1, 4, 9, 9)
    assert not argmax_in_strips(logits, (30, 31), 500).any()


def test_a_strip_is_no_larger_than_it_may_be():
    logits = torch.randn(2, 10, 64, 64)
    largest = max(
        strip.resize(logits[:, :, strip.source], 256).numel()
        for strip in strips(logits, (256, 256), max_elements=50_000)
    )
    assert largest <= 50_000


def test_rows_are_parted_without_gaps_and_as_the_device_likes_it():
    cpu, other = ([*strip_rows(1 << 18, 40, device=torch.device(name))] for name in ("cpu", "meta"))
    assert [row for rows in cpu for row in range(rows.start, rows.stop)] == list(range(40))
    assert [rows.stop - rows.start for rows in cpu] == [4] * 10
    assert other == [slice(0, 40)]


def test_a_row_that_lies_on_another_needs_no_second_one():
    strip = Strip.cut(slice(3, 5), source_height=9, height=9)
    assert strip.source == slice(3, 5)
    assert strip.above.tolist() == strip.below.tolist() == [0, 1]
