"""Showing rare classes more often: how rare each one is, which is chosen, and where."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from hfseg.errors import DataError

TEMPERATURE = 0.01
"""By how much a class must be rarer, in parts of all pixels, to be e times as likely: the value of DAFormer."""


@dataclass(frozen=True)
class Rarity:
    """How likely each class of a data set is to be chosen, and which images hold it.

    Class c, which has the share f of the labelled pixels, gets P(c) = exp((1 - f) / T) / sum of these, or 0 where it
    does not occur. DAFormer draws a class by P and then any image that holds it, as `draw_donor` does. Crops differ:
    each epoch has every image once, so the class is drawn among those that the image holds (`within`), P being
    normalized over these, and the crop is placed around one of its pixels instead of being drawn until it holds enough.
    Source: Hoyer et al., DAFormer, CVPR 2022 (rare class sampling, section 3.3).
    """

    odds: Float[np.ndarray, " k"]
    """P of each class."""
    holds: Bool[np.ndarray, "n k"]
    """Whether an image holds a class."""

    @classmethod
    def of(cls, counts: Integer[np.ndarray, "n k"], *, name: str) -> "Rarity":
        """Weigh the classes of the data set `name` by their pixels in each image.

        Raises:
            DataError: no pixel has a class.
        """
        pixels = counts.sum(axis=0, dtype=np.int64)
        if not pixels.any():
            raise DataError(f"no mask of `{name}` has a labelled pixel: rare classes cannot be told from others")
        return cls(_softmax(-pixels / pixels.sum() / TEMPERATURE, pixels > 0), counts > 0)

    def within(self, index: int) -> Float[np.ndarray, " k"] | None:
        """Give the odds of the classes that image number `index` holds; None where it holds none."""
        held = self.holds[index]
        with np.errstate(divide="ignore"):
            return _softmax(np.log(self.odds), held) if held.any() else None

    def draw_donor(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a class by its odds, and any image that holds it; give the image's number and the class."""
        label = int(rng.choice(len(self.odds), p=self.odds))
        return int(rng.choice(np.flatnonzero(self.holds[:, label]))), label


def draw_pixel(
    labels: Integer[np.ndarray, "h w"], odds: Float[np.ndarray, " k"], rng: np.random.Generator
) -> tuple[int, int]:
    """Draw a class by `odds`, and any pixel of it (row, column); classes that `labels` lack have odds of 0."""
    label = rng.choice(len(odds), p=odds)
    row, column = divmod(int(rng.choice(np.flatnonzero(labels == label))), labels.shape[1])
    return row, column


def _softmax(values: Float[np.ndarray, " k"], kept: Bool[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Give exp(value) over its sum among those that are kept, and 0 for the others."""
    weights: Float[np.ndarray, " k"] = np.where(kept, np.exp(values - values[kept].max()), 0.0)
    weights /= weights.sum()
    return weights
