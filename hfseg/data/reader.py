"""From keys to a batch: what a worker process does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from hfseg.data.augment import AugmentConfig
from hfseg.data.geometry import Pixels, cut_image, cut_labels, draw_window, eval_geometry, whole_window
from hfseg.data.occlusion import erase, paste
from hfseg.data.photometric import FIRST_DRAWS, NUM_DRAWS, frame_draws
from hfseg.data.rare import Rarity
from hfseg.data.record import Record, open_frames, read_labels
from hfseg.data.sampling import Key
from hfseg.data.source import source_stem
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.errors import ConfigError, DataError
from hfseg.labels import LabelSpace
from hfseg.values import Batch

Change = Callable[[UInt8[np.ndarray, "h w 3"], str], UInt8[np.ndarray, "h w 3"]]
"""(image, id) -> the image in the same size with other pixels; workers must be able to pickle it."""
STAND_INS = 20
"""The most samples that are tried in the place of one that cannot be read: more point to a data set that is gone."""


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker: as an exception, torch would put its traceback in place of the message."""

    message: str
    hint: str | None


@dataclass(frozen=True)
class Mended:
    """A batch in which other samples stand in for some that cannot be read."""

    batch: Batch
    problems: tuple[str, ...]
    """What could not be read, each naming its file."""


class TrainReader(TorchDataset["Batch | Failure | Mended"]):
    """Reads augmented training batches."""

    def __init__(
        self, dataset: TableDataset | StreamDataset, augment: AugmentConfig, seed: int, *, skips_broken: bool = False
    ) -> None:
        self.dataset = dataset
        self.augment = augment
        self.seed = seed
        self.skips_broken = skips_broken
        crops_rare = isinstance(dataset, TableDataset) and dataset.rare_class_crop
        self.crop_rarity = _rarity(dataset) if crops_rare else None
        self.paste_rarity = _donors(dataset) if augment.copy_paste else None

    def __getitem__(self, keys: Sequence[Key]) -> Batch | Failure | Mended:
        """Read the samples that the keys name."""
        problems: list[str] = []
        try:
            samples = [self._sample(key, keys, problems) for key in keys]
        except DataError as error:
            return Failure(error.message, error.hint)
        draws = torch.from_numpy(np.stack([sample.draws for sample in samples]))
        batch = _stacked([sample.pixels for sample in samples], [sample.record for sample in samples], draws)
        return Mended(batch, tuple(problems)) if problems else batch

    def _sample(self, key: Key, batch: Sequence[Key], problems: list[str]) -> "_Sample":
        """Read one sample, or the first that stands in for it, augmented by the numbers of `key` either way.

        Raises:
            DataError: it cannot be read and none may stand in, or none of those can be read; names the file.
        """
        places = list(self._places(key, batch))
        for place in places:
            try:
                return self._augmented(_record(self.dataset, place), place.index, key.rng(self.seed), problems)
            except DataError as error:
                if not self.skips_broken:
                    raise
                problems.append(error.message)
        raise DataError(
            f"{len(places)} samples of `{self.dataset.name}` in a row cannot be read, the last of them: {problems[-1]}",
            hint="`loader.on_error=skip` leaves out single files: see whether the data set is still there",
        )

    def _places(self, key: Key, batch: Sequence[Key]) -> Iterator[Key]:
        """Give a sample and what may stand in for it: the next ones of the data set, or of the batch for a stream."""
        yield key
        if isinstance(self.dataset, StreamDataset):
            start = batch.index(key)
            yield from [*batch[start + 1 :], *batch[:start]][:STAND_INS]
        else:
            count = len(self.dataset)
            yield from (Key(key.epoch, (key.index + ahead) % count) for ahead in range(1, min(count, STAND_INS)))

    def _augmented(self, record: Record, index: int, rng: np.random.Generator, problems: list[str]) -> "_Sample":
        """Crop one sample and cover parts of it; draw the numbers, too, that its augmentation on the device needs."""
        space, augment = self.dataset.labels, self.augment
        first = rng.random(FIRST_DRAWS, dtype=np.float32)
        odds = None if self.crop_rarity is None else self.crop_rarity.within(index)
        pixels = train_pixels(record, space, rng, augment, odds)
        if self.paste_rarity is not None and rng.random() < augment.copy_paste:
            pixels = self._with_paste(pixels, self.paste_rarity, rng, problems)
        if augment.erase and rng.random() < augment.erase:
            pixels = erase(pixels, rng, augment, ignore_index=space.ignore_index)
        draws = np.concatenate([first, rng.random(NUM_DRAWS - FIRST_DRAWS, dtype=np.float32)])
        if record.before:
            draws = frame_draws(draws, len(record.before), rng, augment)
        return _Sample(pixels, record, draws)

    def _with_paste(self, pixels: Pixels, rarity: Rarity, rng: np.random.Generator, problems: list[str]) -> Pixels:
        """Paste a rare class out of a crop of another image that is placed around it; nothing, where that is broken."""
        index, label = rarity.draw_donor(rng)
        certain = (np.arange(self.dataset.labels.num_labels) == label).astype(np.float64)
        try:
            donor = _record(self.dataset, Key(0, index))
            return paste(pixels, train_pixels(donor, self.dataset.labels, rng, self.augment, certain), label)
        except DataError as error:
            if not self.skips_broken:
                raise
            problems.append(error.message)
            return pixels


class _Sample(NamedTuple):
    pixels: Pixels
    record: Record
    draws: Float32[np.ndarray, "*t p"]


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


def train_pixels(
    record: Record,
    space: LabelSpace,
    rng: np.random.Generator,
    augment: AugmentConfig,
    odds: Float[np.ndarray, " k"] | None = None,
) -> Pixels:
    """Draw a crop of one sample and decode no more of its image than the crop needs.

    It is the same crop in all frames of a clip. With `odds`, it is placed around a pixel of a class drawn by them.

    Raises:
        DataError: image or mask is broken, they differ in size, or the mask holds an unknown value; names the file.
    """
    pictures = open_frames(record)
    labels = read_labels(record, space, size=pictures[-1].size)
    window = draw_window(labels, rng, augment, ignore_index=space.ignore_index, odds=odds)
    decoded = (picture.decode(shrink=window.shrink) for picture in pictures)
    frames = [cut_image(image, window, augment.crop, factor=factor) for image, factor in decoded]
    return _in_one(frames), cut_labels(labels, window, augment.crop, ignore_index=space.ignore_index)


def eval_pixels(record: Record, space: LabelSpace, short_side: int | None, change: Change | None = None) -> Pixels:
    """Decode one sample, its image changed and brought to `short_side`, its labels at their own size.

    Raises:
        DataError: image or mask is broken, they differ in size, or the mask holds an unknown value; names the file.
    """
    pictures = open_frames(record)
    labels = read_labels(record, space, size=pictures[-1].size)
    window = whole_window(pictures[-1].size, short_side=short_side)
    frames = []
    for frame, picture in zip(record.frames, pictures, strict=True):
        image, factor = picture.decode(shrink=window.shrink if change is None else 1.0)
        if change is not None:
            name = record.id if frame.image is record.image else source_stem(frame.image) or record.id
            image = Image.fromarray(change(np.asarray(image), name))
        frames.append(eval_geometry(image, window, factor=factor))
    return _in_one(frames), labels


def _in_one(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "*t h w 3"]:
    """Stack the frames of a clip; an image alone stays one."""
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _donors(dataset: TableDataset | StreamDataset) -> Rarity:
    """Count the classes that are pasted from image to image.

    Raises:
        ConfigError: the samples are clips.
        DataError: as `_rarity` says.
    """
    if isinstance(dataset, TableDataset) and dataset.memory_frames:
        raise ConfigError(
            "`augment.copy_paste` is for single images: got clips, in whose earlier frames no mask says where the "
            "pasted object was",
            hint="leave it out, or set model.memory_frames=0",
        )
    return _rarity(dataset)


def _rarity(dataset: TableDataset | StreamDataset) -> Rarity:
    """Count the classes of a data set.

    Raises:
        DataError: it is a stream, a mask cannot be read, or no pixel has a class.
    """
    if isinstance(dataset, StreamDataset):
        raise DataError(
            f"`{dataset.name}` is streamed: `augment.copy_paste` needs every mask to be counted first",
            hint="leave out `augment.copy_paste`, or set data.streaming=false",
        )
    return Rarity.of(dataset.class_counts, name=dataset.name)


def _record(dataset: TableDataset | StreamDataset, key: Key) -> Record:
    if key.record is not None:
        return key.record
    assert isinstance(dataset, TableDataset)
    return dataset.record(key.index)


def _stacked(pixels: Sequence[Pixels], records: Sequence[Record], draws: torch.Tensor | None) -> Batch:
    """Stack samples of one size; images lie in memory as they were decoded, channels last, and are turned later."""
    images = torch.from_numpy(np.stack([image for image, _ in pixels])).movedim(-1, -3)
    labels = torch.from_numpy(np.stack([labels for _, labels in pixels]))
    return Batch(images, labels, tuple(record.id for record in records), draws)
