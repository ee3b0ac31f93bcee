"""What can be said about every data set."""

from pydantic import PositiveInt

from hfseg.config import Config
from hfseg.data.merging import Merge


class DatasetSettings(Config):
    """Settings that every data set has."""

    merge: Merge | None = None
    """New class -> the classes it stands for; `*` takes the rest, the new class `ignore` drops its members. Or the path
    of a YAML file that holds this, or the name of a packaged one (`ade20k-4`)."""
    rare_class_crop: bool = False
    """Place training crops around pixels of rare classes: the rarer a class, the more often it is chosen among those
    that an image holds."""


class ClipSettings(DatasetSettings):
    """Settings of the data sets that know which frames come before an image."""

    frame_step: PositiveInt = 1
    """Frames from each frame of a clip to the next one; how many a clip has follows from the model's memory."""


def check_buffer(settings: DatasetSettings, shuffle_buffer: int, *, streaming: bool) -> None:
    """Refuse a `shuffle_buffer` that was given where nothing is streamed.

    Raises:
        ValueError: it would do nothing.
    """
    if not streaming and shuffle_buffer != type(settings).model_fields["shuffle_buffer"].default:
        raise ValueError(
            f"`shuffle_buffer` has no effect without `streaming: true`: got {shuffle_buffer}\n\n"
            "hint: leave it out, or set data.streaming=true"
        )
