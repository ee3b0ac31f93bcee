"""Averages over time against loops in float64, and what alignment does in a pan."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from hfseg.engine.inference import SlideConfig, WholeConfig
from hfseg.engine.smoothing import Smoother, SmoothingConfig, find_shift, translate
from hfseg.values import SegOutput


def texture(height, width, seed=0, cell=6):
    """A smooth random picture of bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // cell, width // cell), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def pictures(offsets, height=96, width=128):
    """Views of one large texture, each `offsets` (down, right) further into it: the content moves the other way."""
    large = torch.from_numpy(texture(height + 60, width + 60).copy())
    return [large[y : y + height, x : x + width].expand(1, 3, -1, -1) for y, x in offsets]


def naive_translate(maps, shift):
    """Look every pixel up where it came from, bilinearly, in plain loops."""
    _, height, width = maps.shape
    moved, covered = np.zeros_like(maps), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            row, column = y - shift[0], x - shift[1]
            covered[y, x] = 0 <= row <= height - 1 and 0 <= column <= width - 1
            row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
            top, left = min(math.floor(row), height - 2), min(math.floor(column), width - 2)
            down, right = row - top, column - left
            moved[:, y, x] = (
                (1 - down) * (1 - right) * maps[:, top, left]
                + (1 - down) * right * maps[:, top, left + 1]
                + down * (1 - right) * maps[:, top + 1, left]
                + down * right * maps[:, top + 1, left + 1]
            )
    return moved, covered


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-1, 5), (0.25, 1.5), (-2.75, -0.5), (40, 0)])
def test_maps_are_moved_as_in_a_plain_loop(shift):
    maps = torch.randn(1, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved, covered = translate(maps, torch.tensor(shift, dtype=torch.float64))
    expected, inside = naive_translate(maps[0].numpy(), shift)
    np.testing.assert_allclose(moved[0], expected, atol=1e-9)
    np.testing.assert_array_equal(covered, inside)


@pytest.mark.parametrize("step", [(0, 0), (3, 0), (0, -7), (-5, 11), (12, 17)])
def test_the_motion_of_the_picture_is_found(step):
    before, after = pictures([(25, 25), (25 - step[0], 25 - step[1])])
    found = find_shift(before[0, 0].float(), after[0, 0].float())
    assert found.tolist() == pytest.approx(step, abs=0.1)


def test_half_a_pixel_is_found():
    large = Image.fromarray(texture(240, 320))
    one, other = (
        torch.from_numpy(
            np.asarray(large.crop((20 + x, 20, 276 + x, 212)).resize((128, 96), Image.Resampling.BOX)).copy()
        )
        for x in (0, 7)
    )
    assert find_shift(one.float(), other.float()).tolist() == pytest.approx((0, -3.5), abs=0.2)


def test_pictures_that_have_nothing_in_common_are_not_moved():
    one, other = (torch.from_numpy(texture(96, 128, seed).copy()).float() for seed in (1, 2))
    assert find_shift(torch.full((96, 128), 7.0), torch.full((96, 128), 7.0)).tolist() == [0, 0]
    moved = find_shift(one, other)
    assert moved.tolist() == [0, 0] or moved.abs().max() < 128


@pytest.mark.parametrize("align", [True, False])
def test_the_average_is_that_of_a_loop_in_float64(align):
    offsets = [(20, 20), (20, 24), (24, 32), (24, 32), (16, 28)]
    draw = torch.Generator().manual_seed(1)
    frames, scores = (
        pictures(offsets),
        [torch.randn(1, 3, 24, 32, generator=draw, dtype=torch.float64) for _ in offsets],
    )
    smoother = Smoother(SmoothingConfig(decay=0.7, align=align))
    expected = None
    for number, (frame, score) in enumerate(zip(frames, scores, strict=True)):
        found = smoother.average(score, frame)
        now = score[0].numpy()
        if expected is None:
            expected = now
        else:
            shift = find_shift(frames[number - 1][0, 0].float() / 255, frame[0, 0].float() / 255) if align else (0, 0)
            moved, covered = naive_translate(expected, [float(part) / 4 for part in shift])
            share = 0.7 * covered
            expected = share * moved + (1 - share) * now
        np.testing.assert_allclose(found[0], expected, atol=1e-5)


def edge_scores(column):
    """Scores of two classes with an edge at a column of a map of 24 x 32: left the one, right the other."""
    sure = torch.where(torch.arange(32) < column, 4.0, -4.0).expand(24, 32)
    return torch.stack((sure, -sure))[None]


def test_alignment_without_an_average_is_refused():
    with pytest.raises(ValueError, match="`align` has no effect without `decay`"):
        SmoothingConfig(align=False)


def test_in_a_pan_alignment_keeps_edges_where_they_are():
    steps = range(6)
    frames = pictures([(20, 8 * step) for step in steps])
    wrong = {}
    for align in (True, False):
        smoother = Smoother(SmoothingConfig(decay=0.8, align=align))
        for step, frame in zip(steps, frames, strict=True):
            scores = edge_scores(28 - 2 * step)
            found = smoother.average(scores, frame).argmax(1)
        wrong[align] = int((found != scores.argmax(1)).sum()) / 24
    assert wrong[True] <= 0.5, "columns beside the edge that are wrong"
    assert wrong[False] >= 4, "without alignment the edge trails behind"


def test_flicker_is_averaged_away_while_the_picture_moves():
    draw = torch.Generator().manual_seed(2)
    steps = range(12)
    frames = pictures([(20, 4 * step) for step in steps])
    smoother, alone, averaged = Smoother(SmoothingConfig(decay=0.8)), 0, 0
    for step, frame in zip(steps, frames, strict=True):
        clean = edge_scores(28 - step)
        noisy = clean + 6 * torch.randn(clean.shape, generator=draw)
        found = smoother.average(noisy, frame).argmax(1)
        if step > 5:
            alone += int((noisy.argmax(1) != clean.argmax(1)).sum())
            averaged += int((found != clean.argmax(1)).sum())
    assert alone > 300
    assert averaged < 0.25 * alone


def test_nothing_is_remembered_after_a_reset_or_in_another_size():
    frames = pictures([(0, 0), (0, 0)])
    first, second = torch.randn(1, 3, 24, 32), torch.randn(1, 3, 24, 32)
    smoother = Smoother(SmoothingConfig(decay=0.9))
    smoother.average(first, frames[0])
    assert not torch.equal(smoother.average(second, frames[1]), second)
    smoother.reset()
    assert torch.equal(smoother.average(second, frames[1]), second)
    other = torch.randn(1, 3, 12, 32)
    assert torch.equal(smoother.average(other, frames[1][:, :, :48]), other)


def test_it_is_off_unless_asked_for():
    assert SmoothingConfig().build() is None
    assert isinstance(SmoothingConfig(decay=0.5).build(), Smoother)


class Bright(torch.nn.Module):
    """Two classes, dark and bright, at a quarter of the size."""

    def forward(self, pixel_values):
        grey = torch.nn.functional.avg_pool2d(pixel_values.float().mean(1, keepdim=True), 4)
        scale = 1 if pixel_values.is_floating_point() else 255
        return SegOutput(8 * torch.cat([0.5 - grey / scale, grey / scale - 0.5], 1))


@pytest.mark.parametrize(
    "protocol",
    [
        WholeConfig(),
        WholeConfig(flip=True, scales=(0.5, 1.0)),
        SlideConfig(crop_size=64),
        SlideConfig(crop_size=64, flip=True),
    ],
    ids=lambda protocol: protocol.to_text(),
)
def test_under_every_protocol_a_still_clip_stays_what_it_is(protocol):
    frame = torch.from_numpy(texture(96, 128, cell=24).copy()).expand(1, 3, -1, -1).contiguous()
    smoother = Smoother(SmoothingConfig(decay=0.8))
    alone = protocol.views(Bright(), frame).argmax((96, 128))
    found = [smoother.smooth(protocol.views(Bright(), frame), frame).argmax((96, 128)) for _ in range(3)]
    assert 0.2 < alone.float().mean() < 0.8
    assert all((one == alone).float().mean() > 0.99 for one in found)
    assert torch.equal(found[0], found[2])
