"""Boundary bands against a distance transform by loops, and boundary IoU against its definition for one class."""

import math

import numpy as np
import pytest
import torch

from hfseg.bands import boundary_band
from hfseg.metrics import Counting
from hfseg.metrics.boundary import boundary_maps, width_px

pytestmark = pytest.mark.slow

IGNORE = 255


def blobs(seed, classes, shape=None, ignored=0.1):
    """Labels of random patches, some of them ignored, and a prediction that is the same map moved a little."""
    rng = np.random.default_rng(seed)
    height, width = shape or rng.integers(5, 34, 2)
    patch = int(rng.integers(1, 6))
    coarse = rng.integers(0, classes, (height // patch + 2, width // patch + 2))
    whole = coarse.repeat(patch, axis=0).repeat(patch, axis=1)
    labels, pred = whole[:height, :width].copy(), whole[1 : height + 1, 1 : width + 1]
    hidden = rng.random((height // 3 + 1, width // 3 + 1)).repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    labels[hidden < ignored] = IGNORE
    return torch.from_numpy(pred.copy()), torch.from_numpy(labels).to(torch.uint8)


def distance_to_others(ids, kept, at_border=True):
    """Chessboard distance of each kept pixel to the nearest kept pixel of another class or to outside, by loops."""
    height, width = ids.shape
    places = [(y, x) for y in range(height) for x in range(width) if kept[y, x]]
    distance = np.full(ids.shape, np.inf)
    for y, x in places:
        outside = min(y + 1, x + 1, height - y, width - x) if at_border else np.inf
        others = [max(abs(y - v), abs(x - u)) for v, u in places if ids[v, u] != ids[y, x]]
        distance[y, x] = min([outside, *others])
    return distance


def eroded(mask, times):
    """Erode a binary mask by 3 x 3 pixels, nothing around it: a pixel stays while all nine are set."""
    for _ in range(times):
        ring = np.pad(mask, 1)
        shifted = [ring[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifted)
    return mask


def boundary_areas(pred, labels, *, classes, boundary_width):
    """What is counted inside the bands of one image."""
    counting = Counting(classes, IGNORE, boundary_width)
    return counting(pred[None], labels[None]).images["boundary"][0]


@pytest.mark.parametrize("distance", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(6))
def test_a_band_equals_the_distance_transform(seed, distance):
    pred, labels = blobs(seed, classes=4)
    kept = labels != IGNORE
    for ids in (pred, labels):
        wanted = distance_to_others(ids.numpy(), kept.numpy()) <= distance
        assert np.array_equal(boundary_band(ids[None], kept[None], distance=distance)[0].numpy(), wanted)


@pytest.mark.parametrize("distance", [1, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_band_that_ends_at_the_border_of_the_image_equals_the_distance_to_other_classes(seed, distance):
    pred, labels = blobs(seed, classes=4)
    kept = labels != IGNORE
    for ids in (pred, labels):
        wanted = distance_to_others(ids.numpy(), kept.numpy(), at_border=False) <= distance
        band = boundary_band(ids[None], kept[None], distance=distance, at_border=False)[0]
        assert np.array_equal(band.numpy(), wanted)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (7, 7), (23, 40)])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.6])
def test_boundary_areas_equal_the_definition_with_eroded_masks_of_each_class(shape, share):
    pred, labels = blobs(0, classes=5, shape=shape, ignored=0)
    distance = max(1, round(share * math.hypot(*shape)))
    found = boundary_areas(pred, labels, classes=5, boundary_width=share)
    for label in range(5):
        masks = [(ids == label).numpy() for ids in (labels, pred)]
        in_labels, in_pred = (mask & ~eroded(mask, distance) for mask in masks)
        wanted = [(in_labels & in_pred).sum(), in_labels.sum(), in_pred.sum()]
        assert found[:, label].tolist() == wanted


@pytest.mark.parametrize("seed", range(4))
def test_boundary_areas_with_ignored_pixels_equal_a_plain_count(seed):
    pred, labels = blobs(seed, classes=4, ignored=0.3)
    distance = width_px(*labels.shape, 0.1)
    kept = (labels != IGNORE).numpy()
    in_pred, in_labels = (distance_to_others(ids.numpy(), kept) <= distance for ids in (pred, labels))
    found = boundary_areas(pred, labels, classes=4, boundary_width=0.1)
    for label in range(4):
        of_labels, of_pred = in_labels & (labels == label).numpy(), in_pred & (pred == label).numpy()
        assert found[:, label].tolist() == [(of_labels & of_pred).sum(), of_labels.sum(), of_pred.sum()]


def test_ignored_pixels_make_no_boundary_and_belong_to_none():
    labels = torch.full((1, 21, 21), 1, dtype=torch.uint8)
    labels[:, 8:13, 8:13] = IGNORE
    band = boundary_band(labels, labels != IGNORE, distance=2)[0]
    border = torch.ones(21, 21, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert torch.equal(band, border)


def test_what_is_predicted_under_ignored_labels_changes_nothing():
    pred, labels = blobs(3, classes=6, shape=(30, 40), ignored=0.3)
    other = torch.where(labels == IGNORE, 99, pred)
    for width in (0.02, 0.2):
        found, wanted = (boundary_areas(ids, labels, classes=6, boundary_width=width) for ids in (other, pred))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("classes", [3, 254, 255, 256, 300])
def test_any_number_of_classes_and_any_ignored_value_give_the_same_bands(classes):
    pred, labels = blobs(5, classes=3, shape=(20, 30))
    wanted = boundary_areas(pred, labels, classes=3, boundary_width=0.05)
    lifted = torch.where(labels == IGNORE, -100, labels.long() + classes - 3)
    found = Counting(classes, -100, 0.05)(pred[None] + classes - 3, lifted[None]).images["boundary"][0]
    assert torch.equal(found[:, -3:], wanted)
    assert not found[:, :-3].any()


def test_images_of_a_batch_do_not_touch_and_inputs_stay_as_they_are():
    pairs = [blobs(seed, classes=4, shape=(25, 31)) for seed in range(3)]
    pred, labels = (torch.stack(maps) for maps in zip(*pairs, strict=True))
    before = pred.clone(), labels.clone()
    found = Counting(4, IGNORE, 0.05)(pred, labels).images["boundary"]
    alone = [boundary_areas(*pair, classes=4, boundary_width=0.05) for pair in pairs]
    assert torch.equal(found, torch.stack(alone))
    assert torch.equal(pred, before[0])
    assert torch.equal(labels, before[1])


def test_a_map_scores_one_against_itself_and_less_when_it_is_moved():
    pred, labels = blobs(1, classes=4, shape=(40, 50), ignored=0)
    same, moved = (boundary_areas(ids, labels, classes=4, boundary_width=0.02) for ids in (labels.long(), pred))
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert (moved[0] < moved[1]).all()


def test_a_band_of_more_than_half_the_image_holds_all_of_it():
    pred, labels = blobs(2, classes=4)
    kept = labels != IGNORE
    in_pred, in_labels = boundary_maps(pred[None], labels[None], num_labels=4, ignore_index=IGNORE, distance=40)
    assert torch.equal(in_pred[0].long(), torch.where(kept, pred, 4))
    assert torch.equal(in_labels[0].long(), torch.where(kept, labels.long(), 5))


@pytest.mark.parametrize(
    ("size", "share", "pixels"), [((1024, 2048), 0.02, 46), ((360, 480), 0.02, 12), ((8, 8), 0.02, 1), ((3, 4), 0.5, 2)]
)
def test_the_width_of_a_band_is_a_share_of_the_diagonal(size, share, pixels):
    assert width_px(*size, share) == pixels
