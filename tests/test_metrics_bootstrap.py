"""Intervals against resampling by lists of images, and against what they promise: to hold the truth."""

import numpy as np
import pytest
import torch

from hfseg.metrics import BootstrapConfig, Difference, ImageAreas
from hfseg.metrics.areas import iou_of


def drawn_areas(seed, images, classes, *, hit_rate=0.8, labelled=None):
    """Areas of images that differ in size and difficulty, some without some classes."""
    rng = np.random.default_rng(seed)
    if labelled is None:
        labelled = rng.integers(1, 400, (images, classes)) * (rng.random((images, classes)) < 0.7)
    hits = rng.binomial(labelled, np.clip(rng.normal(hit_rate, 0.1, (images, 1)), 0, 1))
    predicted = hits + rng.binomial(labelled, 0.15)
    return torch.from_numpy(np.stack((hits, labelled, predicted), axis=1))


def draws(config, images):
    """The images of every resample, one by one from one seeded generator."""
    generator = torch.Generator().manual_seed(config.seed)
    return [torch.randint(images, (images,), generator=generator).tolist() for _ in range(config.resamples)]


def scored(areas):
    """mIoU, pixel accuracy and IoU by class of a list of images, by their definitions."""
    total = np.sum([image.numpy().astype(np.float64) for image in areas], axis=0)
    with np.errstate(invalid="ignore"):
        iou = total[0] / (total[1] + total[2] - total[0])
    return np.nanmean(iou), total[0].sum() / total[1].sum(), iou


@pytest.mark.parametrize("images", [1, 7, 40])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_equal_those_of_resampled_lists_of_images(images, level):
    areas = drawn_areas(0, images, 5)
    areas[0] += 1
    areas[:, :, 3] = 0
    areas[1:, :, 4] = 0
    config = BootstrapConfig(resamples=200, level=level, seed=5)
    found = config.intervals(areas)
    miou, accuracy, iou = zip(*(scored([areas[i] for i in drawn]) for drawn in draws(config, images)), strict=True)
    tails = [(1 - level) / 2, (1 + level) / 2]
    np.testing.assert_allclose(found.mean_iou, np.quantile(miou, tails), rtol=1e-12)
    np.testing.assert_allclose(found.overall_accuracy, np.quantile(accuracy, tails), rtol=1e-12)
    for label in (0, 1, 2, 4):
        wanted = np.nanquantile([values[label] for values in iou], tails)
        np.testing.assert_allclose(found.per_category_iou[label], wanted, rtol=1e-12)
    assert found.per_category_iou[3] is None


def test_a_paired_difference_draws_the_same_images_for_both():
    ours = drawn_areas(1, 30, 4)
    theirs = drawn_areas(2, 30, 4, labelled=ours[:, 1].numpy())
    ids = tuple(f"image {i}" for i in range(30))
    config = BootstrapConfig(resamples=150, seed=2)
    found = config.difference(ImageAreas(ids, ours), ImageAreas(ids, theirs))
    wanted = [
        scored([ours[i] for i in drawn])[0] - scored([theirs[i] for i in drawn])[0] for drawn in draws(config, 30)
    ]
    np.testing.assert_allclose(found.interval, np.quantile(wanted, [0.025, 0.975]), rtol=1e-9)
    assert found.difference == pytest.approx(scored(ours)[0] - scored(theirs)[0], rel=1e-12)


def test_the_same_seed_gives_the_same_interval_however_the_resamples_are_cut(monkeypatch):
    areas = drawn_areas(3, 23, 4)
    whole = BootstrapConfig(resamples=300).intervals(areas)
    monkeypatch.setattr("hfseg.metrics.bootstrap._CHUNK", 23 * 7)
    assert BootstrapConfig(resamples=300).intervals(areas) == whole
    assert BootstrapConfig(resamples=300, seed=1).intervals(areas) != whole


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = float(iou_of(drawn_areas(0, 200_000, 3).sum(0)).mean())
    config = BootstrapConfig(resamples=300)
    intervals = [config.intervals(drawn_areas(seed, 60, 3)).mean_iou for seed in range(1, 301)]
    held = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.90 <= held <= 0.985


def test_models_of_equal_worth_are_told_apart_as_seldom_as_the_level_says():
    config, ids = BootstrapConfig(resamples=200), tuple(map(str, range(50)))
    verdicts = []
    for seed in range(150):
        ours = drawn_areas(2 * seed, 50, 3)
        theirs = drawn_areas(2 * seed + 1, 50, 3, labelled=ours[:, 1].numpy())
        verdicts.append(config.difference(ImageAreas(ids, ours), ImageAreas(ids, theirs)).verdict)
    assert np.mean([verdict != "not distinguishable" for verdict in verdicts]) <= 0.12


def test_a_clear_difference_is_found_from_either_side_and_none_from_itself():
    ids = tuple(map(str, range(40)))
    good = drawn_areas(0, 40, 3, hit_rate=0.85)
    poor = drawn_areas(1, 40, 3, hit_rate=0.6, labelled=good[:, 1].numpy())
    one, other = ImageAreas(ids, good), ImageAreas(ids, poor)
    config = BootstrapConfig()
    assert [config.difference(*pair).verdict for pair in ((one, other), (other, one), (one, one))] == [
        "better",
        "worse",
        "not distinguishable",
    ]
    assert config.difference(one, one).to_dict() == {
        "difference": 0,
        "interval": [0, 0],
        "verdict": "not distinguishable",
    }


def test_pairing_is_narrower_than_its_parts_where_models_fail_on_the_same_images():
    ids = tuple(map(str, range(60)))
    ours = drawn_areas(4, 60, 3)
    theirs = ours.clone()
    theirs[:, 0] = theirs[:, 0] * 97 // 100
    theirs[:, 2] = theirs[:, 2].maximum(theirs[:, 0])
    config = BootstrapConfig()
    low, high = config.difference(ImageAreas(ids, ours), ImageAreas(ids, theirs)).interval
    alone = config.intervals(ours).mean_iou
    assert high - low < 0.2 * (alone[1] - alone[0])
    assert low > 0


@pytest.mark.parametrize(
    ("ids", "classes", "message"),
    [
        (("a", "b"), 3, "models were scored on 3 and 2 images"),
        (("a", "c", "b"), 3, "image 1 is `b` of one model and `c` of the other"),
        (("a", "b", "c"), 2, "models were scored on 3 and 2 classes"),
        (("a", "b", "c"), 3, "labels of image `c` differ: class 1 has 5 and 6 pixels"),
    ],
)
def test_other_images_or_other_labels_are_refused(ids, classes, message):
    ours = torch.full((3, 3, 3), 5)
    theirs = torch.full((len(ids), 3, classes), 5)
    theirs[-1, 1, 1] = 6
    with pytest.raises(ValueError, match=message):
        BootstrapConfig().difference(ImageAreas(("a", "b", "c"), ours), ImageAreas(ids, theirs))


def test_a_verdict_needs_an_interval_on_one_side_of_nothing():
    intervals = {(0.01, 0.02): "better", (-0.02, -0.01): "worse", (-0.01, 0.02): "not distinguishable"}
    assert [Difference(0.0, interval).verdict for interval in intervals] == list(intervals.values())
