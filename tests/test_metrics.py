"""Counts and scores against a plain loop in Python, and against the arithmetic of `evaluate`'s `mean_iou`."""

import json
import math

import numpy as np
import pytest
import torch

from hfseg.metrics import (
    BootstrapConfig,
    Counting,
    ImageScores,
    Scores,
    confusion,
    constant_baseline,
    corruption_table,
    score_table,
)
from hfseg.metrics.confusion import confusions
from hfseg.metrics.mean_iou import MeanIou


def maps(seed: int, classes: int, *, ignore: int = 255, dtype=torch.uint8):
    """A random prediction and labels of an odd size; some classes absent, some pixels ignored."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2) * 2 + 1)
    present = rng.permutation(classes)[: max(1, classes // 2)]
    labels = rng.choice(present, shape)
    pred = np.where(rng.random(shape) < 0.5, labels, rng.integers(0, classes, shape))
    labels = np.where(rng.random(shape) < 0.2, ignore, labels)
    return torch.from_numpy(pred), torch.from_numpy(labels).to(dtype)


def counted(pred, labels, classes, ignore=255):
    matrix = [[0] * classes for _ in range(classes)]
    for p, y in zip(pred.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if y != ignore:
            matrix[y][p] += 1
    return torch.tensor(matrix)


@pytest.mark.parametrize("classes", [1, 2, 7, 150, 255])
@pytest.mark.parametrize("seed", range(4))
def test_confusion_equals_a_plain_count(classes, seed):
    pred, labels = maps(seed, classes)
    assert torch.equal(confusion(pred, labels, num_labels=classes), counted(pred, labels, classes))


@pytest.mark.parametrize(
    ("ignore", "dtype"), [(-100, torch.int64), (65535, torch.int64), (0, torch.int32), (254, torch.int16)]
)
def test_any_ignored_value_is_left_out(ignore, dtype):
    pred, labels = maps(3, 9, ignore=ignore, dtype=dtype)
    before = labels.clone()
    assert torch.equal(confusion(pred, labels, num_labels=9, ignore_index=ignore), counted(pred, labels, 9, ignore))
    assert torch.equal(labels, before)


def test_more_classes_than_a_byte_holds():
    pred, labels = maps(5, 400, ignore=65535, dtype=torch.int64)
    assert torch.equal(confusion(pred, labels, num_labels=400, ignore_index=65535), counted(pred, labels, 400, 65535))


@pytest.mark.parametrize(("ignore", "byte"), [(-100, 156), (65535, 255)])
def test_an_ignored_value_outside_a_byte_ignores_no_byte(ignore, byte):
    labels = torch.tensor([[0, byte]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"label {byte} in 1 pixels"):
        confusion(torch.zeros(1, 2, dtype=torch.int64), labels, num_labels=2, ignore_index=ignore)


def test_the_layout_in_memory_does_not_matter_and_shapes_do():
    pred, labels = maps(1, 5)
    wanted = confusion(pred, labels, num_labels=5)
    assert torch.equal(confusion(pred.T.contiguous().T, labels, num_labels=5), wanted)
    assert torch.equal(confusion(pred, labels.T.contiguous().T, num_labels=5), wanted)
    with pytest.raises(ValueError, match=r"prediction has the shape \(1, 4, 4\): expected the labels' \(2, 4, 4\)"):
        confusion.__wrapped__(torch.zeros(1, 4, 4).long(), torch.zeros(2, 4, 4).long(), num_labels=5)


def test_confusion_of_parts_equals_confusion_of_whole():
    pred, labels = maps(0, 5)
    parts = [confusion(p, y, num_labels=5) for p, y in zip(pred.split(2), labels.split(2), strict=True)]
    assert torch.equal(sum(parts), confusion(pred, labels, num_labels=5))


@pytest.mark.parametrize(
    ("pred", "labels", "message"),
    [
        ([[0, 1]], [[0, 3]], "label 3 in 1 pixels: expected 0 to 2 or 255, which is ignored"),
        ([[0, 1]], [[0, 254]], "label 254 in 1 pixels"),
        ([[0, 3]], [[0, 0]], "prediction 3 in 1 pixels: expected 0 to 2"),
        ([[0, -1]], [[0, 0]], "prediction -1"),
    ],
)
def test_values_outside_the_classes_are_an_error(pred, labels, message):
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(pred), torch.tensor(labels), num_labels=3)


def test_a_prediction_under_an_ignored_label_may_be_anything():
    found = confusion(torch.tensor([[0, 7], [1, -3]]), torch.tensor([[0, 255], [1, 255]]), num_labels=2)
    assert found.tolist() == [[1, 0], [0, 1]]


def stacked(classes, *, images=3, **options):
    """Several images of one size."""
    pairs = [maps(seed, classes, **options) for seed in range(images)]
    size = [min(labels.shape[dim] for _, labels in pairs) for dim in (0, 1)]
    return [torch.stack([pair[place][: size[0], : size[1]] for pair in pairs]) for place in (0, 1)]


@pytest.mark.parametrize(
    ("classes", "ignore", "dtype"), [(1, 255, torch.uint8), (7, -100, torch.int64), (150, 255, torch.uint8)]
)
def test_every_image_is_counted_alone(classes, ignore, dtype):
    pred, labels = stacked(classes, ignore=ignore, dtype=dtype)
    found = confusions(pred, labels, num_labels=classes, ignore_index=ignore)
    wanted = [counted(p, y, classes, ignore) for p, y in zip(pred, labels, strict=True)]
    assert torch.equal(found, torch.stack(wanted))
    assert torch.equal(confusion(pred, labels, num_labels=classes, ignore_index=ignore), sum(wanted))


def test_a_wrong_value_in_any_image_is_an_error():
    labels = torch.zeros(3, 2, 2, dtype=torch.uint8)
    labels[2, 1, 1] = 9
    with pytest.raises(ValueError, match="label 9 in 1 pixels"):
        Counting(3)(torch.zeros(3, 2, 2, dtype=torch.int64), labels)


@pytest.mark.parametrize("classes", [2, 11])
def test_areas_of_an_image_are_hit_labelled_and_predicted_pixels(classes):
    pred, labels = stacked(classes)
    found = Counting(classes)(pred, labels)
    kept = labels != 255
    for image in range(3):
        for label in range(classes):
            is_pred, is_label = (kept[image] & (ids[image] == label) for ids in (pred, labels))
            wanted = [int(pixels.sum()) for pixels in (is_pred & is_label, is_label, is_pred)]
            assert found.images["areas"][image, :, label].tolist() == wanted
    assert torch.equal(found.total["confusion"], confusion(pred, labels, num_labels=classes))
    assert set(found.images) == {"areas"}


def test_counts_of_parts_make_the_counts_of_the_whole():
    pred, labels = stacked(5)
    counting = Counting(5, boundary_width=0.02)
    whole = counting(pred, labels)
    parts = [counting(p, y) for p, y in ((pred[:1], labels[:1]), (pred[1:], labels[1:]))]
    assert torch.equal(sum(part.total["confusion"] for part in parts), whole.total["confusion"])
    for name in ("areas", "boundary"):
        assert torch.equal(torch.cat([part.images[name] for part in parts]), whole.images[name])


def brute_force(pairs, classes, ignore=255):
    """Scores by their definitions, a pixel at a time."""
    hit, labelled, predicted = ([0] * classes for _ in range(3))
    for pred, labels in pairs:
        for p, y in zip(pred.flatten().tolist(), labels.flatten().tolist(), strict=True):
            if y == ignore:
                continue
            hit[y] += p == y
            labelled[y] += 1
            predicted[p] += 1
    union = [labelled[c] + predicted[c] - hit[c] for c in range(classes)]
    iou = [hit[c] / union[c] if union[c] else math.nan for c in range(classes)]
    accuracy = [hit[c] / labelled[c] if labelled[c] else math.nan for c in range(classes)]
    mean = lambda values: float(np.nanmean(values))  # noqa: E731
    return mean(iou), mean(accuracy), sum(hit) / sum(labelled), iou, accuracy


def published(pairs, classes, ignore=255):
    """The arithmetic of `mean_iou`: histograms of each image's kept pixels, summed, divided, NaN left out."""
    total = np.zeros((4, classes))
    for pred, labels in pairs:
        kept = labels.numpy() != ignore
        p, y = pred.numpy()[kept], labels.numpy()[kept]
        areas = [np.histogram(values, bins=classes, range=(0, classes - 1))[0] for values in (p[p == y], p, y)]
        total += np.stack([areas[0], areas[1] + areas[2] - areas[0], areas[1], areas[2]])
    with np.errstate(invalid="ignore"):
        iou, accuracy = total[0] / total[1], total[0] / total[3]
    return np.nanmean(iou), np.nanmean(accuracy), total[0].sum() / total[3].sum(), iou, accuracy


@pytest.mark.parametrize("oracle", [brute_force, published])
@pytest.mark.parametrize("classes", [2, 11, 150])
def test_streamed_scores_equal_the_oracle(oracle, classes):
    pairs = [maps(seed, classes) for seed in range(6)]
    metric = MeanIou(num_labels=classes)
    for pred, labels in pairs[:3]:
        metric.add_batch(predictions=[pred.numpy()], references=[labels.numpy()])
    found = metric.compute(predictions=[p for p, _ in pairs[3:]], references=[y for _, y in pairs[3:]])
    wanted = oracle(pairs, classes)
    names = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou", "per_category_accuracy")
    for name, value in zip(names, wanted, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-12, equal_nan=True, err_msg=name)


def test_computing_starts_anew_and_an_empty_metric_is_an_error():
    metric = MeanIou(num_labels=2)
    assert metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["mean_iou"] == 1
    with pytest.raises(ValueError, match="nothing to score"):
        metric.compute()


def test_classes_without_a_score_can_be_given_one():
    found = MeanIou(num_labels=3).compute(predictions=[[[0]]], references=[[[0]]], nan_to_num=0)
    assert found["per_category_iou"].tolist() == [1, 0, 0]
    assert found["mean_iou"] == 1


def test_what_would_change_labels_twice_is_refused():
    metric = MeanIou(num_labels=3)
    with pytest.raises(ValueError, match="`reduce_labels` would change labels a second time"):
        metric.add_batch(predictions=[[[0]]], references=[[[0]]], reduce_labels=True)
    with pytest.raises(ValueError, match="`num_classes` is not an argument"):
        metric.compute(num_classes=3)
    with pytest.raises(ValueError, match="there are 1 predictions and 2 references"):
        metric.add_batch(predictions=[[[0]]], references=[[[0]], [[1]]])
    with pytest.raises(ValueError, match="ignore_index 2 is also one of the 3 classes"):
        MeanIou(num_labels=3, ignore_index=2)


def test_absent_and_never_predicted_classes_are_said():
    scores = Scores.from_confusion(torch.tensor([[5, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert scores.states == ("ok", "never predicted", "absent")
    assert scores.mean_iou == pytest.approx((5 / 7 + 0) / 2)
    rows = scores.to_dict(("a", "b", "c"), [(0, 0, 0)] * 3)["classes"]
    assert (rows[1]["iou"], rows[2]["iou"], rows[2]["accuracy"]) == (0, None, None)


def test_the_constant_predictor_says_the_most_frequent_class():
    baseline = constant_baseline(torch.tensor([[3, 1], [0, 6]]))
    assert (baseline.overall_accuracy, baseline.mean_iou) == (0.6, 0.3)


def test_a_class_that_is_only_predicted_lowers_the_mean():
    scores = Scores.from_confusion(torch.tensor([[4, 4], [0, 0]]))
    assert scores.states == ("ok", "only predicted")
    assert (scores.per_category_iou, scores.mean_iou, scores.mean_accuracy) == ((0.5, 0.0), 0.25, 0.5)


AREAS = torch.tensor(
    [
        [[90, 0, 0], [100, 0, 0], [90, 10, 0]],  # IoU 0.9, 0, none
        [[0, 2, 0], [0, 4, 0], [0, 2, 0]],  # none, 0.5, none
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],  # all ignored
    ]
)


def test_means_over_images_leave_out_what_is_in_neither_map():
    scores = ImageScores.from_areas(AREAS)
    assert scores.ious[:2].tolist() == pytest.approx([0.45, 0.5])
    assert scores.mean_iou_over_images == pytest.approx((0.45 + 0.5) / 2)
    assert scores.class_mean_iou_over_images == pytest.approx((0.9 + 0.25) / 2)


def test_means_over_images_equal_loops_over_images_and_classes():
    counting = Counting(7)
    areas = torch.cat([counting(*(ids[None] for ids in maps(seed, 7))).images["areas"] for seed in range(8)])
    rows, columns = [], [[] for _ in range(7)]
    for seed in range(8):
        _, _, _, iou, _ = brute_force([maps(seed, 7)], 7)
        rows.append(np.nanmean(iou))
        for label, value in enumerate(iou):
            columns[label] += [value] if value == value else []
    scores = ImageScores.from_areas(areas)
    assert scores.mean_iou_over_images == pytest.approx(np.mean(rows), rel=1e-12)
    assert scores.class_mean_iou_over_images == pytest.approx(np.mean([np.mean(c) for c in columns]), rel=1e-12)


def test_the_worst_images_are_named_and_those_without_labels_are_not():
    scores = ImageScores.from_areas(AREAS)
    assert scores.worst(("a", "b", "c"), 5) == [("a", pytest.approx(0.45)), ("b", pytest.approx(0.5))]
    assert [name for name, _ in scores.worst(("a", "b", "c"), 1)] == ["a"]
    with pytest.raises(ValueError, match="argument"):
        scores.worst(("a", "b"), 1)


def test_the_table_of_a_set_is_json_and_holds_every_score():
    pairs = [maps(seed, 4) for seed in range(6)]
    counts = [Counting(5, boundary_width=0.1)(p[None], y[None]) for p, y in pairs]
    totals = {"confusion": sum(count.total["confusion"] for count in counts)}
    images = {name: torch.cat([count.images[name] for count in counts]) for name in ("areas", "boundary")}
    names, palette = tuple("abcde"), [(index, 0, 0) for index in range(5)]
    table = score_table(
        totals, images, names=names, palette=palette, boundary_width=0.1, bootstrap=BootstrapConfig(resamples=200)
    )
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    scores = Scores.from_confusion(totals["confusion"])
    assert table["mean_iou"] == scores.mean_iou
    assert table["mean_iou_interval"][0] < table["mean_iou"] < table["mean_iou_interval"][1]
    assert table["overall_accuracy_interval"][0] < table["overall_accuracy"] < table["overall_accuracy_interval"][1]
    assert table["bootstrap"] == {"resamples": 200, "level": 0.95, "seed": 0}
    assert table["mean_iou_over_images"] == ImageScores.from_areas(images["areas"]).mean_iou_over_images
    hits, labelled, predicted = images["boundary"].sum(0).tolist()
    ious = [h / (y + p - h) for h, y, p in zip(hits[:4], labelled[:4], predicted[:4], strict=True)]
    assert [row["boundary_iou"] for row in table["classes"]] == [*map(pytest.approx, ious), None]
    assert table["boundary_iou"] == pytest.approx(sum(ious) / 4)
    assert table["boundary_width"] == "10 % of the diagonal"
    assert (table["classes"][4]["state"], table["classes"][4]["iou_interval"]) == ("absent", None)
    assert table["confusion"] == totals["confusion"].tolist()
    assert names[int(totals["confusion"].sum(1).argmax())] == table["baseline"]["class"]
    plain = score_table(totals, {"areas": images["areas"]}, names=names, palette=palette)
    assert set(table) - set(plain) == {
        "boundary_iou", "boundary_width", "mean_iou_interval", "overall_accuracy_interval", "bootstrap"
    }  # fmt: skip


def test_what_corruption_costs_is_a_share_of_the_clean_score():
    found = corruption_table(0.5, [("fog", 1, 0.4), ("fog", 2, 0.2), ("blur", 1, 0.6)])
    assert found["corruptions"][0] == {"name": "fog", "severity": 1, "mean_iou": 0.4, "drop": pytest.approx(0.2)}
    assert [row["name"] for row in found["corruption_means"]] == ["fog", "blur", "all"]
    assert [row["mean_iou"] for row in found["corruption_means"]] == pytest.approx([0.3, 0.6, 0.45])
    assert [row["drop"] for row in found["corruption_means"]] == pytest.approx([0.4, -0.2, 0.1])
    assert corruption_table(0.0, [("fog", 1, 0.0)])["corruptions"][0]["drop"] is None
    with pytest.raises(ValueError, match="no corruption to compare"):
        corruption_table(0.5, [])
