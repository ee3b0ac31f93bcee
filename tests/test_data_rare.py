import pickle

import numpy as np
import pytest
from painted import painted

from hfseg.data import AugmentConfig, LoaderConfig, StreamDataset, train_loader
from hfseg.data.geometry import Window, cut_labels, draw_window
from hfseg.data.rare import TEMPERATURE, Rarity, draw_pixel
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

SPACE = LabelSpace.from_names(["much", "some", "rare"])
CROP = 16
AUGMENT = AugmentConfig(crop_size=CROP, scale=(1.0, 1.0), max_class_share=1.0, flip=0.0, photometric=False)


def skewed(**options):
    """Twelve images; the rare class is a square of 4 x 4 pixels in every second of them, at corners too."""
    rng, pairs = np.random.default_rng(5), []
    for number in range(12):
        labels = np.zeros((40, 48), np.uint8)
        labels[:, : 4 + number] = 1
        labels[30:] = 255 if number == 3 else labels[30:]
        if number % 2 == 0:
            top, left = (0, 44) if number == 0 else (int(rng.integers(37)), int(rng.integers(45)))
            labels[top : top + 4, left : left + 4] = 2
        pairs.append((np.repeat(labels[..., None], 3, axis=2), labels))
    return painted(pairs, SPACE, **options)


def expected(labels, odds):
    """Mean and variance of the rare pixels in a crop, over every window and every pixel it could be placed around."""
    height, width = labels.shape
    rows, columns = np.divmod(np.arange(labels.size), width)
    tops, lefts = np.divmod(np.arange((height - CROP + 1) * (width - CROP + 1)), width - CROP + 1)
    inside = (rows >= tops[:, None]) & (rows < tops[:, None] + CROP)
    inside &= (columns >= lefts[:, None]) & (columns < lefts[:, None] + CROP)
    rare = inside @ (labels.ravel() == 2).astype(float)
    if odds is None:
        chance = np.full(len(tops), 1 / len(tops))
    else:
        each = [odds[c] / max(1, (labels == c).sum()) * (labels.ravel() == c) for c in range(3)]
        chance = inside @ (np.sum(each, axis=0) / inside.sum(axis=0))
    assert chance.sum() == pytest.approx(1)
    return chance @ rare, chance @ rare**2 - (chance @ rare) ** 2


def odds_by_hand(dataset):
    """P(c) = exp((1 - f) / T) / sum, among the classes of each image."""
    labels = [dataset[i].labels for i in range(len(dataset))]
    pixels = np.array([sum((each == c).sum() for each in labels) for c in range(3)])
    weights = np.exp((1 - pixels / pixels.sum()) / TEMPERATURE)
    found = [weights * [(each == c).any() for c in range(3)] for each in labels]
    return [each / each.sum() for each in found]


def rare_per_batch(dataset, count):
    """Rare pixels of batches that hold each image once."""
    loader = iter(train_loader(dataset, AUGMENT, LoaderConfig(batch_size=12, workers=0), seed=0))
    return np.mean([int((next(loader).labels == 2).sum()) for _ in range(count)])


@pytest.mark.slow
def test_rare_pixels_in_a_batch_rise_as_computed():
    count, dataset = 150, skewed(rare_class_crop=True)
    odds = odds_by_hand(dataset)
    moments = {
        "rare": [expected(dataset[i].labels, odds[i]) for i in range(12)],
        "uniform": [expected(dataset[i].labels, None) for i in range(12)],
    }
    mean = {kind: sum(first for first, _ in each) for kind, each in moments.items()}
    error = {kind: (sum(second for _, second in each) / count) ** 0.5 for kind, each in moments.items()}
    assert mean["rare"] > 2.5 * mean["uniform"]
    assert abs(rare_per_batch(dataset, count) - mean["rare"]) < 4 * error["rare"]
    assert abs(rare_per_batch(skewed(), count) - mean["uniform"]) < 4 * error["uniform"]


def test_odds_are_those_of_rare_class_sampling_among_the_classes_of_an_image():
    dataset = skewed()
    rarity = Rarity.of(dataset.class_counts, name="skewed")
    for index, by_hand in enumerate(odds_by_hand(dataset)):
        assert rarity.within(index) == pytest.approx(by_hand)
    assert rarity.odds.sum() == pytest.approx(1)
    assert rarity.odds[2] > rarity.odds[1] > rarity.odds[0]


def test_odds_stay_finite_where_one_class_is_nearly_everything():
    rarity = Rarity.of(np.array([[10**6, 0, 0], [10**6, 1, 0]], np.int32), name="x")
    assert rarity.within(0) == pytest.approx([1, 0, 0])
    assert rarity.within(1) == pytest.approx([0, 1, 0])
    assert rarity.odds[2] == 0


def test_an_image_without_labels_is_cropped_anywhere():
    rarity = Rarity.of(np.array([[0, 0], [3, 1]], np.int32), name="x")
    assert rarity.within(0) is None
    with pytest.raises(DataError, match="no mask of `x` has a labelled pixel"):
        Rarity.of(np.zeros((2, 3), np.int32), name="x")
    blank = np.full((40, 48), 255, np.uint8)
    pairs = [(np.zeros((40, 48, 3), np.uint8), labels) for labels in (blank, np.zeros_like(blank))]
    batch = next(
        iter(train_loader(painted(pairs, SPACE, rare_class_crop=True), AUGMENT, LoaderConfig(batch_size=2), seed=0))
    )
    assert {int(labels.max()) for labels in batch.labels} == {0, 255}


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 2.0), (0.9, 3.0)])
def test_a_rare_crop_holds_a_pixel_of_the_class_that_was_drawn(scale):
    rng, labels = np.random.default_rng(0), np.zeros((40, 48), np.uint8)
    labels[0, 0] = labels[39, 47] = labels[20, 11] = 2
    augment = AUGMENT.model_copy(update={"scale": scale})
    for _ in range(200):
        window = draw_window(labels, rng, augment, ignore_index=255, odds=np.array([0.0, 0.0, 1.0]))
        held = (cut_labels(labels, window, (CROP, CROP), ignore_index=255) == 2).any()
        assert held or window.full < (40, 48)  # at scales below 1 the only pixel may lie under no centre


@pytest.mark.slow
def test_a_crop_around_a_pixel_takes_every_place_that_holds_it():
    labels = np.zeros((40, 48), np.uint8)
    labels[7, 40] = 1
    rng, odds = np.random.default_rng(1), np.array([0.0, 1.0])
    windows = {draw_window(labels, rng, AUGMENT, ignore_index=255, odds=odds) for _ in range(2000)}
    places = {(window.top, window.left) for window in windows}
    assert places == {(top, left) for top in range(8) for left in range(25, 33)}
    assert all(isinstance(window, Window) for window in windows)


def test_pixels_of_the_drawn_class_are_equally_likely():
    labels = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    rng = np.random.default_rng(0)
    drawn = [draw_pixel(labels, np.array([0.25, 0.75]), rng) for _ in range(4000)]
    for pixel in np.ndindex(labels.shape):
        share = drawn.count(pixel) / 4000
        assert share == pytest.approx(0.25 if labels[pixel] else 0.25 / 3, abs=0.03)


def test_donors_hold_the_class_that_is_pasted_from_them():
    dataset, rng = skewed(), np.random.default_rng(0)
    rarity = Rarity.of(dataset.class_counts, name="skewed")
    donors = [rarity.draw_donor(rng) for _ in range(300)]
    assert all(dataset.class_counts[index, label] > 0 for index, label in donors)
    assert {index for index, label in donors if label == 2} == {0, 2, 4, 6, 8, 10}


def test_class_counts_are_those_of_the_decoded_labels():
    dataset = skewed()
    for index in range(12):
        labels = dataset[index].labels
        assert dataset.class_counts[index].tolist() == [int((labels == c).sum()) for c in range(3)]
    assert dataset.select([4, 1]).class_counts.tolist() == dataset.class_counts[[4, 1]].tolist()


def test_a_selection_and_a_copy_still_crop_around_rare_classes():
    dataset = skewed(rare_class_crop=True)
    assert dataset.select([0, 2]).rare_class_crop
    assert pickle.loads(pickle.dumps(dataset)).rare_class_crop  # noqa: S301 our own bytes


def test_a_stream_cannot_tell_rare_classes():
    stream = StreamDataset(iter(()), SPACE, "streamed", "train", 4)
    with pytest.raises(
        DataError, match=r"`streamed` is streamed: `augment.copy_paste` needs every mask to be counted first"
    ) as caught:
        train_loader(stream, AugmentConfig(copy_paste=0.5), LoaderConfig(), seed=0)
    assert caught.value.hint == "leave out `augment.copy_paste`, or set data.streaming=false"
