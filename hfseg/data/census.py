"""What a part of a data set is made of: classes and their pixels, sizes, kinds of masks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from hfseg.data.verify import Findings, Size
from hfseg.labels import LabelSpace


@dataclass(frozen=True)
class ClassCount:
    """How much of a class there is; the last three count pixels in those images that hold the class."""

    name: str
    pixels: int
    share: float
    """Of the labelled pixels."""
    images: int
    least: int
    median: float
    most: int


@dataclass(frozen=True)
class Census:
    """What the samples hold whose mask can be read."""

    images: int
    """All of them, also those with problems."""
    classes: tuple[ClassCount, ...]
    ignored_share: float
    """Of all pixels."""
    sizes: Mapping[Size, int]
    """Height and width -> images, the most frequent first."""
    mask_modes: Mapping[str, int]
    """Modes of the mask files as Pillow names them -> masks."""

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that no image holds."""
        return tuple(found.name for found in self.classes if found.images == 0)


def census(findings: Findings, labels: LabelSpace) -> Census:
    """Count what a data set holds."""
    pixels, ignored = int(findings.counts.sum()), int(findings.ignored.sum())
    return Census(
        images=findings.num_images,
        classes=tuple(_class_count(name, findings.counts[:, label], pixels) for label, name in enumerate(labels.names)),
        ignored_share=ignored / max(1, pixels + ignored),
        sizes=dict(Counter(size for size in findings.image_sizes if size is not None).most_common()),
        mask_modes=dict(Counter(mode for mode in findings.mask_modes if mode is not None).most_common()),
    )


def _class_count(name: str, counts: Integer[np.ndarray, " n"], labelled: int) -> ClassCount:
    held = counts[counts > 0]
    total = int(held.sum())
    if not total:
        return ClassCount(name, 0, 0.0, 0, 0, 0.0, 0)
    return ClassCount(
        name, total, total / labelled, len(held), int(held.min()), float(np.median(held)), int(held.max())
    )
