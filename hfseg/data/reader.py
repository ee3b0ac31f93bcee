"""From keys to a batch: what a worker process does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from hfseg.data.augment import AugmentConfig
from hfseg.data.geometry import cut_image, cut_labels, draw_window, eval_geometry, whole_window
from hfseg.data.photometric import NUM_DRAWS
from hfseg.data.record import Record, open_record_image, read_labels
from hfseg.data.sampling import Key
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.values import Batch

Pixels = tuple[UInt8[np.ndarray, "h w 3"], Integer[np.ndarray, "h2 w2"]]
"""An image and its labels, which may differ in size."""
Change = Callable[[UInt8[np.ndarray, "h w 3"], str], UInt8[np.ndarray, "h w 3"]]
"""(image, id) -> the image in the same size with other pixels; workers must be able to pickle it."""


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker: as an exception, torch would put its traceback in place of the message."""

    message: str
    hint: str | None


class TrainReader(TorchDataset["Batch | Failure"]):
    """Reads augmented training batches."""

    def __init__(self, dataset: TableDataset | StreamDataset, augment: AugmentConfig, seed: int) -> None:
        self.dataset = dataset
        self.augment = augment
        self.seed = seed

    def __getitem__(self, keys: Sequence[Key]) -> Batch | Failure:
        """Read the samples that the keys name."""
        space = self.dataset.labels
        try:
            records = [_record(self.dataset, key) for key in keys]
            rngs = [key.rng(self.seed) for key in keys]
            draws = np.stack([rng.random(NUM_DRAWS, dtype=np.float32) for rng in rngs])
            pixels = [train_pixels(r, space, rng, self.augment) for r, rng in zip(records, rngs, strict=True)]
        except DataError as error:
            return Failure(error.message, error.hint)
        return _stacked(pixels, records, torch.from_numpy(draws))


class EvalReader(TorchDataset["Batch | Failure"]):
    """Reads whole images and labels."""

    def __init__(
        self, dataset: TableDataset | StreamDataset, short_side: int | None, change: Change | None = None
    ) -> None:
        self.dataset = dataset
        self.short_side = short_side
        self.change = change

    def __getitem__(self, keys: Sequence[Key]) -> Batch | Failure:
        """Read the samples that the keys name, which are of one size."""
        try:
            records = [_record(self.dataset, key) for key in keys]
            pixels = [eval_pixels(record, self.dataset.labels, self.short_side, self.change) for record in records]
        except DataError as error:
            return Failure(error.message, error.hint)
        batch = _stacked(pixels, records, None)
        return replace(batch, pixel_values=batch.pixel_values.contiguous())


def train_pixels(record: Record, space: LabelSpace, rng: np.random.Generator, augment: AugmentConfig) -> Pixels:
    """Draw a crop of one sample and decode no more of its image than the crop needs.

    Raises:
        DataError: image or mask is broken, they differ in size, or the mask holds an unknown value; names the file.
    """
    picture = open_record_image(record)
    labels = read_labels(record, space, size=picture.size)
    window = draw_window(labels, rng, augment, ignore_index=space.ignore_index)
    image, factor = picture.decode(shrink=window.shrink)
    cut = cut_labels(labels, window, augment.crop, ignore_index=space.ignore_index)
    return cut_image(image, window, augment.crop, factor=factor), cut


def eval_pixels(record: Record, space: LabelSpace, short_side: int | None, change: Change | None = None) -> Pixels:
    """Decode one sample, its image changed and brought to `short_side`, its labels at their own size.

    Raises:
        DataError: image or mask is broken, they differ in size, or the mask holds an unknown value; names the file.
    """
    picture = open_record_image(record)
    labels = read_labels(record, space, size=picture.size)
    window = whole_window(picture.size, short_side=short_side)
    image, factor = picture.decode(shrink=window.shrink if change is None else 1.0)
    if change is not None:
        image = Image.fromarray(change(np.asarray(image), record.id))
    return eval_geometry(image, window, factor=factor), labels


def _record(dataset: TableDataset | StreamDataset, key: Key) -> Record:
    if key.record is not None:
        return key.record
    assert isinstance(dataset, TableDataset)
    return dataset.record(key.index)


def _stacked(pixels: Sequence[Pixels], records: Sequence[Record], draws: torch.Tensor | None) -> Batch:
    """Stack samples of one size; images lie in memory as they were decoded, channels last, and are turned later."""
    images = torch.from_numpy(np.stack([image for image, _ in pixels])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.stack([labels for _, labels in pixels]))
    return Batch(images, labels, tuple(record.id for record in records), draws)
