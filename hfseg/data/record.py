"""A record: one image, its mask and, of a clip, the frames before it, as they lie in the data set, not decoded yet."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Integer
from PIL import Image

from hfseg.data.decode import Picture, count_values, mask_array, open_mask, open_picture, read_size
from hfseg.data.source import Source, open_source, read_bytes, source_name
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.values import Clip, Sample


@dataclass(frozen=True)
class Record:
    """One image and its mask, undecoded."""

    image: Source
    label: Source
    id: str
    before: tuple[Source, ...] = ()
    """The frames before the image, the oldest first; none where it is no clip."""

    @property
    def image_name(self) -> str:
        """The image as messages name it."""
        return source_name(self.image, fallback=f"image of {self.id}")

    @property
    def label_name(self) -> str:
        """The mask as messages name it."""
        return source_name(self.label, fallback=f"mask of {self.id}")

    @property
    def frames(self) -> tuple["Record", ...]:
        """Every frame as a record of its own, the oldest first, with the mask and the id of the current one."""
        return (*(replace(self, image=image, before=()) for image in self.before), replace(self, before=()))


def read_sample(record: Record, space: LabelSpace) -> Sample | Clip:
    """Decode image and labels at their own size, and the frames before it.

    Raises:
        DataError: one is broken, they differ in size, or the mask holds a value outside `space`; names the file.
    """
    pictures = open_frames(record)
    labels = read_labels(record, space, size=pictures[-1].size)
    frames = [np.array(picture.decode()[0]) for picture in pictures]
    return Clip(np.stack(frames), labels, record.id) if record.before else Sample(frames[0], labels, record.id)


def open_frames(record: Record) -> list[Picture]:
    """Read the headers of all frames of a clip, or of the image alone; the current one comes last.

    Raises:
        DataError: one is missing or no image, or they differ in size; names the file.
    """
    pictures = [open_record_image(frame) for frame in record.frames]
    for frame, picture in zip(record.frames, pictures, strict=True):
        check_frame_size(frame, picture.size, of=record, size=pictures[-1].size)
    return pictures


def check_frame_size(frame: Record, found: tuple[int, int], *, of: Record, size: tuple[int, int]) -> None:
    """Refuse a frame whose size (height, width) is not that of the clip's current frame, which is `size`.

    Raises:
        DataError: they differ; names both files and both sizes.
    """
    if found != size:
        raise DataError(
            f"frames of a clip differ in size: `{frame.image_name}` is {found[1]} x {found[0]}, "
            f"`{of.image_name}` is {size[1]} x {size[0]}",
            hint="resize one set of frames to the other's size: all frames of a clip are cut alike",
        )


def open_record_image(record: Record) -> Picture:
    """Read the header of the image.

    Raises:
        DataError: it is missing or no image; names the file.
    """
    if isinstance(record.image, list):
        raise DataError(f"`{record.image_name}` is a list of numbers: expected an image file")
    return open_picture(read_bytes(record.image, name=record.image_name), name=record.image_name)


def read_image_size(record: Record) -> tuple[int, int]:
    """Read the height and width of the upright image, without its pixels.

    Raises:
        DataError: it is missing or no image; names the file.
    """
    if isinstance(record.image, list):
        raise DataError(f"`{record.image_name}` is a list of numbers: expected an image file")
    with open_source(record.image, name=record.image_name) as file:
        return read_size(file, name=record.image_name)


def read_labels(record: Record, space: LabelSpace, *, size: tuple[int, int]) -> Integer[np.ndarray, "h w"]:
    """Decode the mask and encode it in `space`; the image's `size` (height, width) is what it must have.

    Raises:
        DataError: it is broken, of another size, or holds a value outside `space`; names the file.
    """
    mask = _open_label(record, space)
    check_sizes(record, image=size, mask=(mask.height, mask.width))
    return _encode(record, space, mask)


def count_labels(record: Record, space: LabelSpace) -> tuple[tuple[int, int], dict[int, int]]:
    """Give the height and width of the mask, and the number of pixels of each train id in it.

    Raises:
        DataError: it is broken or holds a value outside `space`; names the file.
    """
    mask = _open_label(record, space)
    size = (mask.height, mask.width)
    if mask.mode in ("L", "P"):
        found = count_values(mask)
        if found.keys() <= space.table.keys():
            ids: dict[int, int] = {}
            for value, count in found.items():
                ids[space.table[value]] = ids.get(space.table[value], 0) + count
            return size, ids
    labels, counts = np.unique(_encode(record, space, mask), return_counts=True)
    return size, {int(label): int(count) for label, count in zip(labels, counts, strict=True)}


def check_sizes(record: Record, *, image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Refuse an image and a mask of different size (height, width).

    Raises:
        DataError: they differ; names both files and both sizes.
    """
    if image == mask:
        return
    turned = image == mask[::-1]
    raise DataError(
        f"image and mask differ in size: `{record.image_name}` is {image[1]} x {image[0]}, "
        f"`{record.label_name}` is {mask[1]} x {mask[0]}",
        hint="the image may carry an EXIF orientation that the mask was not drawn in: save one of them turned"
        if turned
        else "each mask must be drawn on its image at the same size",
    )


def _open_label(record: Record, space: LabelSpace) -> Image.Image:
    """Decode the mask, as indices or as colours, whichever `space` reads."""
    colored = space.colors is not None
    if isinstance(record.label, list):
        mask = Image.fromarray(np.asarray(record.label, dtype=np.int32))
    else:
        data = read_bytes(record.label, name=record.label_name)
        mask = open_mask(data, name=record.label_name, colored=colored)
    if colored and mask.mode != "RGB":
        raise DataError(
            f"mask `{record.label_name}` holds index values (mode {mask.mode}): expected RGB colours, "
            "since a colour table was given",
            hint="if they are class indices, take `data.colors` away; beside a CSV file of colours, give --classes",
        )
    return mask


def _encode(record: Record, space: LabelSpace, mask: Image.Image) -> Integer[np.ndarray, "h w"]:
    try:
        return space.encode(mask_array(mask))
    except DataError as error:
        from_one = mask.mode in ("L", "P") and space.table.get(0) == 0 and mask.getextrema()[1] == space.num_labels
        raise DataError(f"`{record.label_name}`: {error.message}", _FROM_ONE if from_one else error.hint) from None


_FROM_ONE = (
    "if the first class has the value 1 and 0 is no class: --set data.first_value=1 --set 'data.ignored_values=[0]'"
)
