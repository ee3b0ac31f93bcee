import numpy as np
import pytest
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from pydantic import ValidationError

from hfseg.data.augment import AugmentConfig
from hfseg.data.geometry import (
    PAD_COLOR,
    Window,
    cut_image,
    cut_labels,
    draw_window,
    eval_geometry,
    scaled_size,
    train_geometry,
    whole_window,
)
from hfseg.data.photometric import NUM_DRAWS, Photometric, change_hue_saturation, photometric
from hfseg.values import Batch, Sample

RNG = np.random.default_rng(0)
IGNORE = 255


def smooth_image(height, width):
    coarse = RNG.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("full", [(40, 52), (57, 77), (100, 130), (163, 211), (80, 104)])
def test_a_crop_equals_the_crop_of_the_whole_resized_image(full):
    image, labels = smooth_image(80, 104), RNG.integers(0, 5, (80, 104), dtype=np.uint8)
    window = Window((80, 104), full, top=5, left=9, height=32, width=30)
    whole = np.asarray(image.resize(full[::-1], Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(cut_image(image, window, (32, 30)) - whole[5:37, 9:39])
    assert difference.max() <= 2  # filter weights are rounded twice
    assert difference.mean() < 0.2
    nearest = np.asarray(Image.fromarray(labels).resize(full[::-1], Image.Resampling.NEAREST))
    cut = cut_labels(labels, window, (32, 30), ignore_index=IGNORE)
    on_edge = [[(2 * i + 1) * s % (2 * f) == 0 for i in range(f)] for s, f in zip((80, 104), full, strict=True)]
    clear = ~(np.array(on_edge[0])[5:37, None] | np.array(on_edge[1])[9:39])  # Pillow rounds these either way
    assert np.array_equal(cut[clear], nearest[5:37, 9:39][clear])


def test_an_image_decoded_at_half_size_gives_nearly_the_same_crop():
    image = smooth_image(81, 103)
    half = image.reduce(2)  # 52 x 41: the last column and row stand for half a pixel
    window = Window((81, 103), (30, 38), top=3, left=4, height=20, width=22)
    whole = cut_image(image, window, (20, 22)).astype(int)
    assert np.abs(cut_image(half, window, (20, 22), factor=2) - whole).mean() < 3


@pytest.mark.parametrize("seed", range(20))
def test_image_and_labels_stay_aligned_to_the_pixel(seed):
    blocks = np.kron(RNG.integers(0, 4, (8, 10), dtype=np.uint8), np.ones((9, 9), np.uint8))
    sample = Sample(np.repeat((blocks * 60)[..., None], 3, axis=2), blocks, "x")
    cut = train_geometry(sample, np.random.default_rng(seed), AugmentConfig(crop_size=48), ignore_index=IGNORE)
    inside = cut.labels != IGNORE
    found = np.round(cut.image[..., 0] / 60)
    assert (found[inside] == cut.labels[inside]).mean() > 0.75  # the edges between blocks are mixed
    moved = np.roll(cut.labels, 4, axis=1)
    assert (found[inside] == moved[inside]).mean() < (found[inside] == cut.labels[inside]).mean()
    assert set(np.unique(cut.labels)) <= {0, 1, 2, 3, IGNORE}


def test_what_lies_beyond_the_image_is_ignored_and_has_the_mean_colour():
    sample = Sample(np.full((20, 30, 3), 7, np.uint8), np.ones((20, 30), np.uint8), "x")
    augment = AugmentConfig(crop_size=(24, 40), scale=(1.0, 1.0))
    cut = train_geometry(sample, np.random.default_rng(0), augment, ignore_index=IGNORE)
    assert cut.image.shape == (24, 40, 3)
    assert (cut.labels[:20, :30] == 1).all()
    assert (cut.image[:20, :30] == 7).all()
    for beyond in (np.s_[20:], np.s_[:, 30:]):
        assert (cut.labels[beyond] == IGNORE).all()
        assert (cut.image[beyond] == PAD_COLOR).all()


def test_wide_label_types_are_kept():
    labels = np.full((20, 30), 70000, np.int64)
    cut = cut_labels(labels, whole_window((20, 30), short_side=10), (12, 15), ignore_index=-1)
    assert cut.dtype == np.int64
    assert set(np.unique(cut)) == {-1, 70000}


def test_one_class_may_not_fill_a_crop_where_another_crop_can_be_had():
    labels = np.zeros((100, 100), np.uint8)
    labels[:, 40:60] = 1
    labels[:, 60:62] = IGNORE
    augment = AugmentConfig(crop_size=32, scale=(1.0, 1.0))

    def share(seed, **changes):
        chosen = augment.model_copy(update=changes)
        window = draw_window(labels, np.random.default_rng(seed), chosen, ignore_index=IGNORE)
        cut = cut_labels(labels, window, (32, 32), ignore_index=IGNORE)
        return max((cut == i).sum() for i in (0, 1)) / (cut != IGNORE).sum()

    with_rule = np.mean([share(seed) > 0.8 for seed in range(60)])
    without = np.mean([share(seed, max_class_share=1.0) > 0.8 for seed in range(60)])
    assert with_rule < 0.1
    assert without > 0.3


def test_crops_of_one_class_or_of_nothing_are_accepted_in_the_end():
    for value in (0, IGNORE):
        labels = np.full((64, 64), value, np.uint8)
        window = draw_window(labels, np.random.default_rng(0), AugmentConfig(crop_size=16), ignore_index=IGNORE)
        assert (window.height, window.width) == (16, 16)


def test_scales_cover_the_range_and_the_short_side_is_scale_one():
    labels = np.zeros((60, 90), np.uint8)
    augment = AugmentConfig(crop_size=16, short_side=40)
    full = [draw_window(labels, np.random.default_rng(s), augment, ignore_index=IGNORE).full for s in range(200)]
    sides = [min(size) for size in full]
    assert min(sides) < 24
    assert max(sides) > 76
    assert all(abs(size[1] / size[0] - 1.5) < 0.06 for size in full)
    assert scaled_size((60, 90), short_side=40) == (40, 60)
    assert scaled_size((90, 60), short_side=None) == (90, 60)


def test_evaluation_resizes_the_image_only_when_asked():
    image = smooth_image(40, 60)
    assert np.array_equal(eval_geometry(image, whole_window((40, 60), short_side=None)), np.asarray(image))
    small = eval_geometry(image, whole_window((40, 60), short_side=20))
    assert np.array_equal(small, np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR)))


def turned(height, width, angle, full=(80, 104), top=20, left=30):
    return Window((80, 104), full, top, left, height, width, angle)


@pytest.mark.parametrize(("angle", "quarters"), [(90.0, 1), (180.0, 2), (-90.0, -1)])
def test_a_quarter_turn_equals_the_turned_crop(angle, quarters):
    image, labels = smooth_image(80, 104), RNG.integers(0, 5, (80, 104), dtype=np.uint8)
    cut = cut_image(image, turned(32, 32, angle), (32, 32))
    straight = np.rot90(cut_image(image, turned(32, 32, 0.0), (32, 32)), quarters)
    assert np.abs(cut.astype(int) - straight).max() <= 1  # Pillow rounds down what it interpolates
    cut = cut_labels(labels, turned(32, 32, angle), (32, 32), ignore_index=IGNORE)
    assert np.array_equal(cut, np.rot90(labels[20:52, 30:62], quarters))


@pytest.mark.parametrize("full", [(80, 104), (57, 77), (163, 211)])
@pytest.mark.parametrize("angle", [-170.0, -20.0, 3.0, 44.0])
def test_a_turned_crop_equals_the_crop_of_the_whole_turned_image(full, angle):
    image, labels = smooth_image(80, 104), RNG.integers(0, 5, (80, 104), dtype=np.uint8)
    window = turned(40, 36, angle, full, top=5, left=12)
    whole = image.resize(full[::-1], Image.Resampling.BILINEAR)
    whole = whole.rotate(angle, Image.Resampling.BILINEAR, center=(12 + 18, 5 + 20), fillcolor=PAD_COLOR)
    difference = np.abs(cut_image(image, window, (40, 36)) - np.asarray(whole).astype(int)[5:45, 12:48])
    assert difference.max() <= 3  # filter weights are rounded twice
    cut = cut_labels(labels, window, (40, 36), ignore_index=IGNORE)
    for row, column in np.ndindex(40, 36):
        place = complex(30, 25) + complex(column + 0.5 - 18, row + 0.5 - 20) * np.exp(1j * np.deg2rad(angle))
        x, y = int(np.floor(place.real * 104 / full[1])), int(np.floor(place.imag * 80 / full[0]))
        assert cut[row, column] == (labels[y, x] if 0 <= x < 104 and 0 <= y < 80 else IGNORE)


def test_a_turned_corner_beyond_the_image_is_ignored_and_has_the_mean_colour():
    sample = Sample(np.full((40, 40, 3), 7, np.uint8), np.ones((40, 40), np.uint8), "x")
    augment = AugmentConfig(crop_size=(40, 44), scale=(1.0, 1.0), rotate=60.0)
    cut = train_geometry(sample, np.random.default_rng(2), augment, ignore_index=IGNORE)
    assert 0.05 < (cut.labels[:, :40] == IGNORE).mean() < 0.3
    assert (cut.image[cut.labels == 1] == 7).mean() > 0.99
    assert (cut.image[cut.labels == IGNORE] == PAD_COLOR).all()
    assert (cut.labels[:, 40:] == IGNORE).all()


def test_turns_cover_the_range_and_nothing_is_drawn_where_there_are_none():
    labels = np.zeros((60, 90), np.uint8)

    def windows(rotate):
        augment = AugmentConfig(crop_size=16, rotate=rotate, max_class_share=1.0)
        return [draw_window(labels, np.random.default_rng(s), augment, ignore_index=IGNORE) for s in range(200)]

    angles = [window.angle for window in windows(30.0)]
    assert min(angles) < -27
    assert max(angles) > 27
    assert max(map(abs, angles)) <= 30
    assert {window.angle for window in windows(0.0)} == {0.0}
    rng = np.random.default_rng(0)
    full = scaled_size((60, 90), short_side=None, scale=rng.uniform(0.5, 2.0))
    assert windows(0.0)[0].top == rng.integers(full[0] - 15)  # right after the scale, as without turns


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (2.0, 0.5)},
        {"crop_size": 0},
        {"flip": 1.5},
        {"max_class_share": 0.0},
        {"rotate": 200},
        {"rotation": 3},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentConfig(**wrong)


def batch(count=6, draws=None):
    pixels = torch.randint(0, 256, (count, 3, 12, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count * 12 * 14, dtype=torch.int64).reshape(count, 12, 14) % 200
    draws = torch.rand(count, NUM_DRAWS, generator=torch.Generator().manual_seed(1)) if draws is None else draws
    return Batch(pixels, labels.to(torch.uint8), tuple(map(str, range(count))), draws)


def test_flips_turn_images_and_labels_together():
    given = batch()
    out = Photometric(AugmentConfig(photometric=False))(given)
    flipped = given.draws[:, 0] < 0.5
    assert 0 < flipped.sum() < 6
    for index in range(6):
        pixels, labels = given.pixel_values[index].float() / 255, given.labels[index]
        assert torch.equal(out.pixel_values[index], pixels.flip(-1) if flipped[index] else pixels)
        assert torch.equal(out.labels[index], labels.flip(-1) if flipped[index] else labels)
    assert out.draws is None


def test_vertical_flips_come_on_their_own_and_as_often_as_asked():
    count = 4000
    pixels = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]).expand(count, 3, 2, 2) / 3
    labels = torch.tensor([[0, 1], [2, 3]]).expand(count, 2, 2)
    draws = torch.rand(count, NUM_DRAWS, generator=torch.Generator().manual_seed(5))
    given = Batch(pixels, labels, tuple(map(str, range(count))), draws)
    out = Photometric(AugmentConfig(photometric=False, flip=0.3, vertical_flip=0.6))(given)
    assert torch.equal(out.pixel_values[:, 0].mul(3).round().long(), out.labels)
    share = torch.bincount(out.labels[:, 0, 0], minlength=4) / count
    assert torch.allclose(share, torch.tensor([0.7 * 0.4, 0.3 * 0.4, 0.7 * 0.6, 0.3 * 0.6]), atol=0.03)
    for certain, expected in (({"flip": 1.0, "vertical_flip": 1.0}, 3), ({"flip": 0.0, "vertical_flip": 1.0}, 2)):
        out = Photometric(AugmentConfig(photometric=False, **certain))(given)
        assert (out.labels[:, 0, 0] == expected).all()


def test_colours_change_within_bounds_and_by_the_samples_own_numbers():
    given = batch()
    out = Photometric(AugmentConfig(flip=0.0))(given).pixel_values
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert out.min() >= 0
    assert out.max() <= 1
    assert not torch.equal(out, given.pixel_values / 255)
    one = Batch(given.pixel_values[2:3], given.labels[2:3], ("2",), given.draws[2:3])
    assert torch.allclose(Photometric(AugmentConfig(flip=0.0))(one).pixel_values[0], out[2], atol=1e-6)


def test_samples_whose_gates_are_shut_keep_their_colours():
    images = batch().pixel_values.float() / 255
    assert torch.equal(photometric(images, torch.full((6, NUM_DRAWS), 0.9), AugmentConfig()), images)


def test_each_change_does_what_its_name_says():
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.4 + 0.3
    shut = torch.full((1, NUM_DRAWS), 0.9)

    def changed(first, amount):
        draws = shut.clone()
        draws[:, first], draws[:, first + 1] = 0.0, amount
        return photometric(images, draws, AugmentConfig())

    assert torch.allclose(changed(1, 0.75), images + 16 / 255, atol=1e-6)
    assert torch.allclose(changed(3, 0.75), (images * 1.25).clamp(0, 1), atol=1e-6)
    lightest, darkest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    muted = changed(5, 0.0)
    assert torch.allclose(muted.amax(1, keepdim=True), lightest, atol=1e-5)
    assert torch.allclose(muted.amax(1) - muted.amin(1), (lightest - darkest)[:, 0] / 2, atol=1e-5)
    turned = changed(7, 1.0)
    assert torch.allclose(turned.amax(1), images.amax(1), atol=1e-5)
    assert not torch.allclose(turned, images, atol=1e-3)


def test_strengths_bound_each_change_and_zero_leaves_it_out():
    images = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(2)) * 0.2 + 0.4
    draws = torch.rand(64, NUM_DRAWS, generator=torch.Generator().manual_seed(3))
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    assert torch.equal(photometric(images, draws, AugmentConfig(**none)), images)
    brighter = photometric(images, draws, AugmentConfig(**{**none, "brightness": 0.2})) - images
    assert 0.15 < brighter.abs().max() <= 0.2 + 1e-6
    assert torch.allclose(brighter, brighter[:, :1, :1, :1].expand_as(brighter), atol=1e-6)
    factor = photometric(images, draws, AugmentConfig(**{**none, "contrast": 0.1})) / images
    assert factor.min() >= 0.9 - 1e-6
    assert 1.05 < factor.max() <= 1.1 + 1e-6
    for kept, changed in (("saturation", "hue"), ("hue", "saturation")):
        out = photometric(images, draws, AugmentConfig(**{**none, changed: 0.5}))
        spread = [(each.amax(1) - each.amin(1)).clamp(min=1e-6) for each in (images, out)]
        assert torch.allclose(*spread, atol=1e-5) == (kept == "saturation")
        assert torch.allclose(images.amax(1), out.amax(1), atol=1e-5)


def test_a_strength_without_photometric_is_refused():
    with pytest.raises(ValidationError, match=r"`hue` has no effect with `photometric: false`: got 3"):
        AugmentConfig(photometric=False, hue=3)


def test_hue_and_saturation_equal_a_conversion_there_and_back():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(4, 3, 9, 9, generator=generator)
    images[0, :, 0] = images[0, :1, 0]  # grey
    images[1, :, 0] = 0
    turn = torch.tensor([-18.0, 18.0, 90.0, 0.0])[:, None, None, None]
    saturation = torch.tensor([0.5, 1.5, 1.0, 1.4])[:, None, None, None]
    hue, satur, value = rgb_to_hsv(images).split(1, dim=1)
    hsv = torch.cat([(hue + turn.deg2rad()) % (2 * torch.pi), (satur * saturation).clamp(0, 1), value], dim=1)
    assert torch.allclose(change_hue_saturation(images, turn, saturation), hsv_to_rgb(hsv), atol=1e-5)


def test_evaluation_batches_only_become_floats():
    given = Batch(batch().pixel_values, batch().labels, batch().ids)
    assert torch.equal(Photometric(AugmentConfig())(given).pixel_values, given.pixel_values / 255)
