"""Images and masks one at a time, outside of a loader."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from hfseg.data.decode import open_picture
from hfseg.data.geometry import eval_geometry, whole_window
from hfseg.data.record import Record, read_labels, read_sample
from hfseg.data.source import read_bytes
from hfseg.data.stream import StreamDataset
from hfseg.data.table import TableDataset
from hfseg.labels import LabelSpace
from hfseg.values import Clip, Sample


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image file to upright RGB.

    Raises:
        DataError: the file is missing, truncated or no image; names it.
    """
    data = read_bytes({"path": str(path)}, name=str(path))
    return np.asarray(open_picture(data, name=str(path)).decode()[0])


def read_mask(path: Path, space: LabelSpace, *, image_path: Path, size: tuple[int, int]) -> Integer[np.ndarray, "h w"]:
    """Decode a mask file of an image of `size` (height, width) to train ids.

    Raises:
        DataError: it is broken, of another size, or holds a value outside `space`; names the file.
    """
    return read_labels(Record({"path": str(image_path)}, {"path": str(path)}, path.stem), space, size=size)


def model_input(image: UInt8[np.ndarray, "*t h w 3"], *, short_side: int | None) -> UInt8[np.ndarray, "*t h2 w2 3"]:
    """Bring an image, or the frames of a clip, to the size at which evaluation shows them to a model."""
    if image.ndim == 4:
        return np.stack([model_input(frame, short_side=short_side) for frame in image])
    return eval_geometry(Image.fromarray(image), whole_window((image.shape[0], image.shape[1]), short_side=short_side))


def pick_samples(dataset: TableDataset | StreamDataset, count: int) -> Iterator[Sample | Clip]:
    """Give `count` samples spread evenly over a data set, or the first ones of a stream."""
    if isinstance(dataset, StreamDataset):
        yield from (read_sample(record, dataset.labels) for record in islice(dataset.records(), count))
        return
    places = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    yield from (dataset[index] for index in places.tolist())
