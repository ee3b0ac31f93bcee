import io
import pickle

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFilter import GaussianBlur

from hfseg.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from hfseg.data.optics import LARGEST_CLOUD_PX, cloud, convolve, disk_kernel, gaussian_kernel, streak_kernel

pytestmark = pytest.mark.slow

RANDOM = ("gaussian_noise", "shot_noise", "motion_blur", "fog")
GREY = np.full((200, 220, 3), 128, np.uint8)


def clouds(seed, size=(90, 121)):
    """A colour image with structure at every scale, as photographs have it."""
    rng = np.random.default_rng(seed)
    return (np.stack([cloud(size, decay=1.5, rng=rng) for _ in range(3)], axis=2) * 255).astype(np.uint8)


IMAGE = clouds(0)


def corrupted(name, severity=3, image=IMAGE, image_id="x", seed=0):
    return Corruption(name, severity, seed)(image, image_id)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_depends_on_seed_and_id_alone(name, severity):
    given = IMAGE.copy()
    out = corrupted(name, severity, given)
    assert out.dtype == np.uint8
    assert not np.array_equal(out, IMAGE)
    assert np.array_equal(given, IMAGE)
    again = pickle.loads(pickle.dumps(Corruption(name, severity)))  # noqa: S301 our own bytes
    again(IMAGE, "another one before it")
    assert np.array_equal(again(IMAGE, "x"), out)
    for other in ({"image_id": "y"}, {"seed": 1}):
        assert np.array_equal(corrupted(name, severity, **other), out) == (name not in RANDOM)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (7, 3), (3, LARGEST_CLOUD_PX + 9)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_every_size_can_be_corrupted(name, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for severity in (1, 5):
        assert corrupted(name, severity, image).shape == image.shape
        black = corrupted(name, severity, np.zeros_like(image))
        assert black.shape == image.shape


def lost_edges(one, other):
    """One minus the correlation of differences between neighbours."""
    steps = [np.diff(image.astype(float), axis=1).ravel() for image in (one, other)]
    return 1 - np.corrcoef(*steps)[0, 1]


def distance(one, other):
    return np.sqrt(((one.astype(float) - other) ** 2).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_leaves_less_of_the_image(name):
    images = [clouds(seed) for seed in range(4)]
    measures = [lost_edges] if name == "fog" else [lost_edges, distance]  # the thickest fogs are as far, but rougher
    for measure in measures:
        found = [np.mean([measure(image, corrupted(name, s, image)) for image in images]) for s in SEVERITIES]
        assert all(found[i] < found[i + 1] for i in range(4)), found


def test_unknown_names_and_severities_are_refused():
    with pytest.raises(ValueError, match="`blur` is no corruption: expected one of gaussian_noise, shot_noise"):
        Corruption("blur", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity is 1 to 5: got {severity}"):
            Corruption("fog", severity)


@pytest.mark.parametrize(("severity", "std"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_the_published_deviation(severity, std):
    noise = corrupted("gaussian_noise", severity, GREY).astype(float) - 128
    assert noise.std() == pytest.approx(std * 255, rel=0.02)
    assert abs(noise.mean()) < 0.6
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (2, 25)])
def test_shot_noise_is_that_of_counted_photons(severity, photons):
    noisy = corrupted("shot_noise", severity, GREY) / 255
    assert noisy.mean() == pytest.approx(128 / 255, rel=0.01)
    assert noisy.var() == pytest.approx(128 / 255 / photons, rel=0.05)


@pytest.mark.parametrize(("severity", "shift"), [(1, 0.1), (5, 0.5)])
def test_brightness_raises_the_lightest_channel_and_keeps_hue_and_saturation(severity, shift):
    out = corrupted("brightness", severity).astype(float)
    value, raised = IMAGE.max(2).astype(float), out.max(2)
    assert np.abs(raised - np.minimum(value + shift * 255, 255)).max() <= 0.5
    light = value > 40
    assert np.abs(out / raised[..., None] - IMAGE / np.maximum(value, 1)[..., None])[light].max() < 0.02
    assert (corrupted("brightness", severity, np.zeros((2, 2, 3), np.uint8)) == round(shift * 255)).all()


def test_contrast_shrinks_the_distance_to_the_mean():
    out = corrupted("contrast", 2).astype(float)
    mean = IMAGE.mean(axis=(0, 1))
    assert np.abs(out - ((IMAGE - mean) * 0.3 + mean)).max() <= 0.51


def test_blur_jpeg_and_pixelate_are_those_of_pillow():
    image = Image.fromarray(IMAGE)
    blurred = np.asarray(image.filter(GaussianBlur(4)), dtype=float)
    assert np.abs(corrupted("gaussian_blur", 4) - blurred).mean() < 1
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=10)
        assert np.array_equal(corrupted("jpeg_compression", 4), np.asarray(Image.open(file)))
    small = image.resize((60, 45), Image.Resampling.BOX)
    assert np.array_equal(corrupted("pixelate", 2), np.asarray(small.resize(image.size, Image.Resampling.BOX)))


def test_fog_is_light_and_lays_no_colour_over_the_image():
    out = corrupted("fog", 5, np.full((64, 64, 3), 200, np.uint8))
    assert (out[..., 0] == out[..., 1]).all()
    assert (out[..., 0] == out[..., 2]).all()
    assert out.max() == pytest.approx(200, abs=1)
    assert out.min() == pytest.approx(200 * (200 / 255) / (200 / 255 + 3), abs=1)
    dark_and_light = np.zeros((60, 80, 3), np.uint8)
    dark_and_light[:, 40:] = 255
    assert corrupted("fog", 1, dark_and_light)[:, :40].mean() > 60


KERNELS = {
    "gaussian": gaussian_kernel(3.0, radius=12),
    "disk": disk_kernel(6, 0.5),
    "sharp disk": disk_kernel(3, 0.1),
    "streak": streak_kernel(15, 8.0, angle=30.0),
    "slanted streak": streak_kernel(10, 3.0, angle=-45.0),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_keep_the_brightness_and_the_place(kernel):
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.shape == (len(places), len(places))
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)
    assert (kernel.sum(0) * places).sum() == pytest.approx(0, abs=1e-9)
    assert (kernel.sum(1) * places).sum() == pytest.approx(0, abs=1e-9)


def test_a_disk_is_round_and_as_large_as_it_says():
    kernel = disk_kernel(8, 0.5)
    places = np.arange(len(kernel)) - len(kernel) // 2
    apart = np.hypot(places[:, None], places)
    assert np.allclose(kernel[apart < 5], kernel[10, 10])
    assert kernel[apart > 9.5].max() < 0.05 * kernel[10, 10]
    assert np.allclose(kernel, kernel.T)


def test_a_streak_lies_along_its_angle():
    kernel = streak_kernel(15, 8.0, angle=30.0)
    rows, columns = np.nonzero(kernel)
    places = np.stack([columns - len(kernel) // 2, rows - len(kernel) // 2])
    spread = np.cov(places, aweights=kernel[rows, columns])
    direction = np.linalg.eigh(spread)[1][:, 1]
    assert np.rad2deg(np.arctan(direction[1] / direction[0])) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("size", [(9, 12), (4, 3), (1, 1)])
def test_convolution_equals_a_sum_over_shifts(size):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((*size, 3), dtype=np.float32), rng.random((7, 7))
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    expected = np.zeros_like(image)
    for row, column in np.ndindex(7, 7):
        expected += kernel[row, column] * padded[6 - row : 6 - row + size[0], 6 - column : 6 - column + size[1]]
    assert np.allclose(convolve(image, kernel), expected, atol=1e-4)


def test_clouds_fill_the_range_repeat_without_a_seam_and_are_smoother_by_decay():
    smooth, rough = (cloud((128, 128), decay=decay, rng=np.random.default_rng(0)) for decay in (2.0, 1.2))
    for made in (smooth, rough):
        assert (made.min(), made.max()) == (0, 1)
        inner = np.abs(np.diff(made, axis=0))
        assert np.abs(made[0] - made[-1]).mean() < 1.5 * inner.mean()
    assert np.abs(np.diff(smooth, axis=1)).mean() < np.abs(np.diff(rough, axis=1)).mean() / 2
    wide = cloud((2, LARGEST_CLOUD_PX + 5), decay=2.0, rng=np.random.default_rng(0))
    assert np.array_equal(wide[:, :5], wide[:, LARGEST_CLOUD_PX:])
