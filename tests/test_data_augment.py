"""Every augmentation on pictures of labels: image and labels stay together, whatever is switched on."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from painted import painted
from pydantic import ValidationError
from torch.nn.functional import conv2d, max_pool2d, pad

from hfseg.data import AugmentConfig, LoaderConfig, Photometric, train_loader
from hfseg.data.corruptions import CORRUPTIONS
from hfseg.data.degradation import add_noise, blur, gaussian_blur, normal_numbers
from hfseg.data.geometry import PAD_COLOR
from hfseg.data.occlusion import erase, paste
from hfseg.data.photometric import NUM_DRAWS
from hfseg.data.reader import TrainReader, train_pixels
from hfseg.data.sampling import Key
from hfseg.labels import LabelSpace
from hfseg.values import Batch

IGNORE, SIZE = 255, (60, 76)
COLORS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (180, 180, 60)], np.uint8)
SPACE = LabelSpace.from_names(["a", "b", "c", "d"])
PLAIN = {"crop_size": 48, "scale": (1.0, 1.0), "max_class_share": 1.0, "flip": 0.0, "photometric": False}
EVERY = {
    "crop_size": {"crop_size": (40, 90)},
    "short_side": {"short_side": 52},
    "scale": {"scale": (0.7, 1.7)},
    "max_class_share": {"max_class_share": 0.3},
    "rotate": {"rotate": 50.0},
    "flip": {"flip": 1.0},
    "vertical_flip": {"vertical_flip": 1.0},
    "photometric": {"photometric": True},
    "brightness": {"photometric": True, "brightness": 0.2},
    "contrast": {"photometric": True, "contrast": 0.4},
    "saturation": {"photometric": True, "saturation": 0.4},
    "hue": {"photometric": True, "hue": 30.0},
    "blur": {"blur": 1.0},
    "blur_sigma": {"blur": 1.0, "blur_sigma": (1.0, 2.5)},
    "noise": {"noise": 1.0},
    "noise_std": {"noise": 1.0, "noise_std": 0.03},
    "clip_photometric": {"photometric": True, "clip_photometric": "clip"},
    "erase": {"erase": 1.0},
    "erase_area": {"erase": 1.0, "erase_area": (0.1, 0.9)},
    "erase_fill": {"erase": 1.0, "erase_fill": "mean"},
    "copy_paste": {"copy_paste": 1.0},
    "rare_class_crop": {},
}
"""A setting -> what switches it on; the last one belongs to the data set."""
MIXED_PX = {"short_side": 2, "scale": 2, "rotate": 2, "blur": 6, "blur_sigma": 8}
"""How far from another label a pixel may have its colour; elsewhere 0."""
TOLERANCE = {"noise": 6 * 0.05, "noise_std": 6 * 0.03, "short_side": 0.01, "scale": 0.01, "rotate": 0.01}
"""By how much the colours of one label may differ, in parts of white: rounding of Pillow, six deviations of noise."""
ALL = {key: value for settings in EVERY.values() for key, value in settings.items()} | {"flip": 0.5, "crop_size": 48}


def pictures_of_labels(*, blocks=False, count=6, **options):
    """Images in which each label has its own colour: random labels, the last one rare, or blocks of 20 x 20 pixels."""
    rng, pairs = np.random.default_rng(2), []
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    for number in range(count):
        labels = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=SIZE).astype(np.uint8)
        labels = ((rows // 20 * 2 + columns // 20 + number) % 4).astype(np.uint8) if blocks else labels
        pairs.append((COLORS[labels], labels))
    return painted(pairs, SPACE, **options)


def augmented(name, steps=2, **changes):
    """Batches of six with one augmentation, ready for a model."""
    dataset = pictures_of_labels(blocks=name in MIXED_PX, rare_class_crop=name == "rare_class_crop")
    augment = AugmentConfig(**{**PLAIN, **EVERY.get(name, {}), **changes})
    loader = train_loader(dataset, augment, LoaderConfig(batch_size=6, workers=0), seed=1)
    return [Photometric(augment)(batch) for batch in islice(loader, steps)]


def spread_of_colors(image, labels, mixed_px):
    """By how much colours differ within one label at most, and between two labels at least."""
    ids = pad(labels.float()[None], (mixed_px,) * 4, value=-1)  # a crop's edge is mixed with what lies beyond
    inside = max_pool2d(ids, 2 * mixed_px + 1, 1) == -max_pool2d(-ids, 2 * mixed_px + 1, 1)
    kept = [image[:, (labels == c) & inside[0]] for c in range(4)]
    kept = [colors for colors in kept if colors.shape[1]]
    assert kept
    middles = torch.stack([colors.median(1).values for colors in kept])
    within = max(float((colors - m[:, None]).abs().max()) for colors, m in zip(kept, middles, strict=True))
    apart = torch.cdist(middles, middles, p=torch.inf) + 9 * torch.eye(len(kept))
    return within, float(apart.min())


def test_every_augmentation_is_looked_at_here():
    assert EVERY.keys() == {*AugmentConfig.model_fields, "rare_class_crop"}


def test_every_augmentation_and_corruption_is_in_the_docs_with_pictures_that_are_there():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "augmentation.md").read_text(encoding="utf-8")
    assert [name for name in (*EVERY, *CORRUPTIONS) if f"{name}`" not in page] == []
    shown = re.findall(r"\]\((pictures/[\w-]+\.jpg)\)", page)
    assert {f"pictures/corruption-{name}.jpg" for name in CORRUPTIONS} < set(shown)
    assert sorted(docs / name for name in shown) == sorted(
        path for kind in ("augment", "corruption") for path in (docs / "pictures").glob(f"{kind}-*.jpg")
    )
    assert sum((docs / name).stat().st_size for name in shown) < 1_000_000


@pytest.mark.parametrize("name", EVERY)
def test_image_and_labels_stay_aligned_to_the_pixel(name):
    limit, mixed_px = TOLERANCE.get(name, 1e-5), MIXED_PX.get(name, 0)
    for batch in augmented(name):
        for image, labels in zip(batch.pixel_values, batch.labels, strict=True):
            within, apart = spread_of_colors(image, labels, mixed_px)
            assert within <= limit
            assert apart > 0.05
            moved = labels.roll(10 if mixed_px else 1, dims=1)
            assert spread_of_colors(image, moved, mixed_px)[0] > max(limit, 0.1)  # so a shift would be seen


@pytest.mark.parametrize("name", EVERY)
def test_no_label_is_made_up(name):
    for batch in augmented(name):
        assert set(batch.labels.unique().tolist()) <= {0, 1, 2, 3, IGNORE}


@pytest.mark.parametrize("name", EVERY)
def test_labels_are_ignored_where_nothing_is_shown_and_only_there(name):
    hides, padded = "erase" in EVERY[name], name in {"crop_size", "scale", "rotate"}
    shown = []
    for batch in augmented(name, photometric=False, **({"erase_fill": "mean"} if hides else {}) | only_geometry(name)):
        pad_color = torch.tensor(PAD_COLOR)[:, None, None] / 255
        blank = (batch.pixel_values - pad_color).abs().amax(1) < 1e-6
        ignored = batch.labels == IGNORE
        assert torch.equal(blank[ignored], torch.ones_like(blank[ignored]))
        if name != "rotate":  # which mixes the last pixels with what lies beyond
            assert torch.equal(blank, ignored)
        shown.append(bool(ignored.any()))
    assert any(shown) == (hides or padded)


def only_geometry(name):
    """Switch off what a setting needs on the device, where colours are to be compared."""
    off = {"blur": {"blur": 0.0}, "noise": {"noise": 0.0}}
    settings = {"blur_sigma": off["blur"], "noise_std": off["noise"], **off}.get(name, {})
    colors = {"brightness", "contrast", "saturation", "hue", "blur_sigma", "noise_std", "clip_photometric"}
    colors &= EVERY[name].keys()
    return {**settings, **{key: AugmentConfig.model_fields[key].default for key in colors}}


def run(dataset, augment, *, batch_size, steps, rank=0, world_size=1, workers=0):
    loader = LoaderConfig(batch_size=batch_size, workers=workers)
    batches = train_loader(dataset, augment, loader, seed=4, rank=rank, world_size=world_size)
    return [Photometric(augment)(batch) for batch in islice(batches, steps)]


@pytest.mark.many
@pytest.mark.parametrize("workers", [0, 2])
def test_with_everything_on_a_sample_depends_on_no_rank_worker_or_batch(workers):
    augment, dataset = AugmentConfig(**{**PLAIN, **ALL}), pictures_of_labels(rare_class_crop=True)
    whole = run(dataset, augment, batch_size=6, steps=2)
    ranks = [run(dataset, augment, batch_size=2, steps=2, rank=r, world_size=3, workers=workers) for r in range(3)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert batch.ids == tuple(name for part in parts for name in part.ids)
        assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))
        assert torch.allclose(batch.pixel_values, torch.cat([part.pixel_values for part in parts]), atol=1e-5)


def test_numbers_of_blur_and_noise_leave_all_others_as_they_were():
    dataset, augment, key = pictures_of_labels(), AugmentConfig(crop_size=40), Key(3, 2)
    batch = TrainReader(dataset, augment, 7)[[key]]
    rng = key.rng(7)
    assert np.array_equal(batch.draws[0, :10], rng.random(10, dtype=np.float32))
    image, labels = train_pixels(dataset.record(2), SPACE, rng, augment)
    assert np.array_equal(batch.pixel_values[0].permute(1, 2, 0), image)
    assert np.array_equal(batch.labels[0], labels)
    assert batch.draws.shape == (1, NUM_DRAWS)
    assert len(set(batch.draws[0].tolist())) == NUM_DRAWS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur_sigma": (1.0, 3.0)}, r"`blur_sigma` has no effect with `blur: 0.0`: got \[1.0, 3.0\]"),
        ({"noise_std": 0.1}, r"`noise_std` has no effect with `noise: 0.0`: got 0.1"),
        ({"erase_area": (0.1, 0.2)}, r"`erase_area` has no effect with `erase: 0.0`: got \[0.1, 0.2\]"),
        ({"erase_fill": "mean"}, r"`erase_fill` has no effect with `erase: 0.0`: got \"mean\""),
        ({"blur": 1.0, "blur_sigma": (3.0, 1.0)}, r"`blur_sigma` must be \[low, high\]: got \[3.0, 1.0\]"),
        ({"erase": 1.0, "erase_area": (0.5, 0.1)}, r"`erase_area` must be \[low, high\]"),
        ({"erase": 1.0, "erase_area": (0.0, 0.1)}, r"greater than 0"),
        ({"copy_paste": 1.5}, r"less than or equal to 1"),
    ],
)
def test_settings_that_do_nothing_or_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        AugmentConfig(**settings)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "step", "strength"), [("blur", blur, {"blur_sigma": (0.5, 2.0)}), ("noise", add_noise, {"noise_std": 1.0})]
)
def test_blur_and_noise_come_as_often_as_asked_and_leave_the_others_alone(name, step, strength, chance):
    images = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    draws = torch.rand(400, {"blur": 2, "noise": 3}[name], generator=torch.Generator().manual_seed(1))
    given = images.clone()
    out = step(images, draws, AugmentConfig(**{name: chance}, **(strength if chance else {})))
    changed = (out != given).flatten(1).any(1)
    assert torch.equal(changed, draws[:, 0] < chance)
    assert torch.equal(images, given)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_a_convolution_with_a_gaussian(sigma):
    images = torch.rand(2, 3, 20, 23, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(-6, 7)
    taps = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    kernel = (taps / taps.sum()).expand(3, 1, 13, 13)
    expected = conv2d(pad(images, (6, 6, 6, 6), mode="replicate"), kernel, groups=3)
    blurred = gaussian_blur(images, torch.tensor([sigma, 0.01]), radius=6)
    assert torch.allclose(blurred[0], expected[0], atol=1e-5)
    assert torch.allclose(blurred[1], images[1], atol=1e-6)


def test_noise_is_normal_and_another_in_each_pixel_channel_and_sample():
    count = 40_000
    draws = torch.rand(16, generator=torch.Generator().manual_seed(0))
    noise = normal_numbers(draws, count)
    error = count**-0.5
    assert noise.mean(1).abs().max() < 4 * error
    assert (noise.std(1) - 1).abs().max() < 4 * error
    assert ((noise**3).mean(1)).abs().max() < 4 * 15**0.5 * error
    assert ((noise**4).mean(1) - 3).abs().max() < 4 * 96**0.5 * error
    assert (torch.corrcoef(noise) - torch.eye(16)).abs().max() < 5 * error
    for lag in (1, 2, 3, 24, 48 * 48):  # neighbours in a row, in a column, and the same pixel of another channel
        assert (noise[:, lag:] * noise[:, :-lag]).mean().abs() < 5 * error / 4
    assert noise.isfinite().all()


def test_noise_is_a_hash_of_the_sample_and_the_pixel():
    def mixed(bits):
        bits = ((bits >> 16) ^ bits) * 0x7FEB352D % 2**32
        bits = ((bits >> 15) ^ bits) * 0x846CA68B % 2**32
        return (bits >> 16) ^ bits

    draw = torch.tensor([0.625], dtype=torch.float32)
    bits = [mixed(mixed(place) ^ mixed(int(0.625 * 2**24))) for place in range(1000)]
    signed = np.array([value - 2**32 if value >= 2**31 else value for value in bits])
    expected = torch.erfinv(torch.from_numpy(((signed >> 9) + 0.5) / 2**22)) * 2**0.5
    assert torch.allclose(normal_numbers(draw, 1000)[0].double(), expected, atol=1e-4)


def test_the_strength_of_noise_is_uniform_up_to_the_largest():
    images = torch.full((300, 3, 16, 16), 0.5)
    draws = torch.rand(300, 3, generator=torch.Generator().manual_seed(2))
    out = add_noise(images, draws, AugmentConfig(noise=1.0, noise_std=0.1))
    assert torch.allclose((out - 0.5).flatten(1).std(1), draws[:, 1] * 0.1, rtol=0.15, atol=1e-4)
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("size", [(48, 48), (20, 90), (1, 30), (30, 1), (1, 1)])
def test_erased_rectangles_have_the_area_and_aspect_that_were_asked_for(size):
    augment, shares, aspects = AugmentConfig(erase=1.0, erase_area=(0.1, 0.6)), [], []
    given = np.zeros((*size, 3), np.uint8), np.ones(size, np.uint8)
    for seed in range(200):
        image, labels = erase(given, np.random.default_rng(seed), augment, ignore_index=IGNORE)
        rows, columns = np.nonzero(labels == IGNORE)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == len(rows)
        assert not image[labels == 1].any()
        shares.append(len(rows) / labels.size)
        aspects.append(height / width)
    assert given[1].all()
    if min(size) >= 20:
        assert 0.08 < min(shares) < 0.15
        assert 0.5 < max(shares) < 0.61
        assert np.mean(shares) == pytest.approx(0.34, abs=0.04)
    if size == (48, 48):
        assert min(aspects) < 0.5
        assert max(aspects) > 2
        assert all(0.25 < aspect < 4 for aspect in aspects)


def test_erased_pixels_are_noise_or_the_mean_colour():
    given = np.zeros((40, 40, 3), np.uint8), np.ones((40, 40), np.uint8)

    def hidden(fill):
        augment = AugmentConfig(erase=1.0, erase_area=(0.3, 0.4), erase_fill=fill)
        image, labels = erase(given, np.random.default_rng(0), augment, ignore_index=IGNORE)
        return image[labels == IGNORE]

    assert (hidden("mean") == PAD_COLOR).all()
    noise = hidden("noise")
    assert 115 < noise.mean() < 140
    assert 65 < noise.std() < 82


def test_a_pasted_class_comes_with_its_labels_and_nothing_else():
    rng = np.random.default_rng(0)
    onto, donor = (
        (rng.integers(256, size=(9, 9, 3), dtype=np.uint8), rng.integers(4, size=(9, 9), dtype=np.uint8))
        for _ in range(2)
    )
    image, labels = paste(onto, donor, 3)
    chosen = donor[1] == 3
    assert (labels[chosen] == 3).all()
    assert np.array_equal(image[chosen], donor[0][chosen])
    assert np.array_equal(labels[~chosen], onto[1][~chosen])
    assert np.array_equal(image[~chosen], onto[0][~chosen])


@pytest.mark.slow
def test_copy_paste_shows_the_rare_class_more_often():
    def share(chance):
        batches = augmented("copy_paste", steps=6, copy_paste=chance)
        return np.mean([float((batch.labels == 3).float().mean()) for batch in batches])

    plain, pasted = share(0.0), share(1.0)
    assert plain == pytest.approx(0.05, abs=0.01)
    assert pasted == pytest.approx(1 - 0.95**2, abs=0.015)  # its pixels of two crops


def test_batches_without_numbers_only_become_floats():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    out = Photometric(AugmentConfig(**{**PLAIN, **ALL}))(Batch(images, labels, ("0", "1")))
    assert torch.equal(out.pixel_values, images / 255)
