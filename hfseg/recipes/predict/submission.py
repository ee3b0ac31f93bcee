"""Masks as the servers of benchmarks take them: raw values at the size of the images, and a zip of them."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer
from PIL import Image

from hfseg.data import official_labels
from hfseg.labels import LabelSpace
from hfseg.recipes.scoring import check_same_classes

Benchmark = Literal["ade20k", "cityscapes"]
ARCHIVE = "submission.zip"


def submission_space(benchmark: Benchmark, model: LabelSpace, *, name: str) -> LabelSpace:
    """Give the official classes of a benchmark: ADE20K's values 1 to 150, Cityscapes' labelIds.

    Raises:
        DataError: the model was trained on other classes.
    """
    official = official_labels(benchmark)
    check_same_classes(model, official, name=name)
    return official


def write_raw_mask(pred: Integer[np.ndarray, "h w"], space: LabelSpace, stem: Path) -> Path:
    """Write a prediction as raw values, 8 bits, one channel."""
    path = stem.with_name(f"{stem.name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(space.decode(pred).astype(np.uint8)).save(path)
    return path


def write_archive(masks: Sequence[Path], folder: Path) -> Path:
    """Put masks into one zip, without folders; PNG files are stored as they are."""
    archive_path = folder / ARCHIVE
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_STORED) as archive:
        for mask in masks:
            archive.write(mask, mask.name)
    return archive_path
