"""Covering parts of a training crop: by an erased rectangle, or by a class of another image."""

import numpy as np

from hfseg.data.augment import AugmentConfig
from hfseg.data.geometry import PAD_COLOR, Pixels

ASPECTS = (0.3, 1 / 0.3)
"""Range of an erased rectangle's height over its width."""


def erase(pixels: Pixels, rng: np.random.Generator, augment: AugmentConfig, *, ignore_index: int) -> Pixels:
    """Fill a random rectangle of the image, the same in all frames of a clip, and ignore the labels below it.

    Area and logarithm of the aspect are uniform, the aspect within what fits.
    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020, with its range of aspects. Classification keeps
    the label of an erased image; a pixel whose object cannot be seen any more has none to learn from.
    """
    image, labels = (part.copy() for part in pixels)
    height, width = labels.shape
    area = rng.uniform(*augment.erase_area) * height * width
    low, high = np.clip(ASPECTS, area / width**2, height**2 / area)
    aspect = np.exp(rng.uniform(np.log(low), np.log(high)))
    rows, columns = max(1, int(np.sqrt(area * aspect))), max(1, int(np.sqrt(area / aspect)))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    place = np.s_[top : top + rows, left : left + columns]
    noisy = augment.erase_fill == "noise"
    filling = rng.integers(256, size=(rows, columns, 3), dtype=np.uint8) if noisy else np.asarray(PAD_COLOR)
    image[(..., *place, slice(None))] = filling
    labels[place] = ignore_index
    return image, labels


def paste(onto: Pixels, donor: Pixels, label: int) -> Pixels:
    """Lay the pixels that have `label` in the donor, and their labels, over another crop of the same size.

    Source: Ghiasi et al., Simple Copy-Paste, CVPR 2021, with classes in place of instances, and no blending.
    """
    chosen = donor[1] == label
    return np.where(chosen[..., None], donor[0], onto[0]), np.where(chosen, donor[1], onto[1])
