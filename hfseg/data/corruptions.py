"""Corruptions of test images, five strengths of each: how far scores fall when pictures get worse.

Kinds, strengths and formulas are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019), made for 224 x 224 pixels and
not scaled to larger images. What differs: pixels of every size and shape are taken; values are rounded, not cut off;
motion blur is centred on its pixel, so that the labels still lie where the image shows them; its kernel is laid between
pixels; and an image's randomness is that of its id, and the same at each severity.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from hfseg.data.optics import cloud, convolve, disk_kernel, gaussian_kernel, streak_kernel

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
]
CORRUPTIONS: tuple[CorruptionName, ...] = get_args(CorruptionName)
"""Every kind, in the order in which ImageNet-C lists them: noise, blur, weather, digital."""
SEVERITIES = (1, 2, 3, 4, 5)

Pixels = Float32[np.ndarray, "h w 3"]
"""An image of 0 to 1."""


@dataclass(frozen=True)
class Corruption:
    """One kind at one severity; what an image becomes depends on these, its id and the seed alone.

    Raises:
        ValueError: there is no such kind or severity.
    """

    name: str
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(f"`{self.name}` is no corruption: expected one of {', '.join(CORRUPTIONS)}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is 1 to 5: got {self.severity}")

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], image_id: str) -> UInt8[np.ndarray, "h w 3"]:
        """Corrupt the image that has this id; the image itself stays as it is."""
        digest = hashlib.sha256(f"{self.seed}/{self.name}/{image_id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest))
        change, strengths = _KINDS[self.name]
        return _bytes(change(image.astype(np.float32) / 255, strengths[self.severity - 1], rng))


def gaussian_noise(image: Pixels, std: float, rng: np.random.Generator) -> Pixels:
    """Add normal numbers."""
    noise: Pixels = np.float32(std) * rng.standard_normal(image.shape, dtype=np.float32)
    noise += image
    return noise


def shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Count photons, `photons` on average where the image is white."""
    return (rng.poisson(image * photons) / photons).astype(np.float32)


def gaussian_blur(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Blur by a Gaussian of `sigma` pixels."""
    return convolve(image, gaussian_kernel(sigma, radius=round(4 * sigma)))


def defocus_blur(image: Pixels, lens: tuple[int, float], rng: np.random.Generator) -> Pixels:
    """Spread each pixel over a disk; `lens` is its radius and the softness of its edge, in pixels."""
    return convolve(image, disk_kernel(*lens))


def motion_blur(image: Pixels, streak: tuple[int, float], rng: np.random.Generator) -> Pixels:
    """Smear along a line within 45 degrees of the horizontal; `streak` is its half length and its fading, in pixels."""
    return convolve(image, streak_kernel(*streak, angle=float(rng.uniform(-45, 45))))


def fog(image: Pixels, bank: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Lay a cloud over the image, its thickness and smoothness being those of `bank`, and dim to the old maximum."""
    thickness, smoothness = bank
    veil = thickness * cloud(image.shape[:2], decay=smoothness, rng=rng)
    brightest = float(image.max())
    return (image + veil[..., None]) * np.float32(brightest / (brightest + thickness))


def brightness(image: Pixels, shift: float, rng: np.random.Generator) -> Pixels:
    """Raise the value of HSV; hue and saturation stay."""
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + np.float32(shift), 1)
    out: Pixels = np.where(value > 0, image * (raised / np.maximum(value, np.float32(1e-6))), raised)
    return out


def contrast(image: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Bring each channel closer to its mean."""
    mean = image.mean(axis=(0, 1))
    out: Pixels = (image - mean) * np.float32(factor) + mean
    return out


def pixelate(image: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    """Make smaller by `scale` and larger again, in boxes."""
    whole = Image.fromarray(_bytes(image))
    small = whole.resize([max(1, int(side * scale)) for side in whole.size], Image.Resampling.BOX)
    return np.asarray(small.resize(whole.size, Image.Resampling.BOX), dtype=np.float32) / 255


def jpeg_compression(image: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    """Compress with a low quality."""
    with io.BytesIO() as file:
        Image.fromarray(_bytes(image)).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file), dtype=np.float32) / 255


_KINDS: dict[str, tuple[Callable[[Pixels, Any, np.random.Generator], Pixels], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
    "gaussian_blur": (gaussian_blur, (1.0, 2.0, 3.0, 4.0, 6.0)),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": (motion_blur, ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))),
    "fog": (fog, ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (25, 18, 15, 10, 7)),
}
"""The function of each kind, and its strength at severities 1 to 5."""


def _bytes(image: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    return (image * 255).round().clip(0, 255).astype(np.uint8)
