"""Which frames come before a labelled one in CamVid: those of the 30 Hz video, or else the labelled ones before it.

Labelled frames are a second apart, in the validation part a fifteenth; those of all parts lie in one another's past, of
which only the images are used. Frames of the video are looked for in a folder `image_sequence` or `images_sequence`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfseg.data.clips import Frame, Sequences, by_place
from hfseg.data.layout import IMAGE_ENDINGS
from hfseg.errors import DataError

_VIDEO_FOLDERS = ("image_sequence", "images_sequence")
"""TMANet's name of the folder, and the one that its configs have."""
_SEQUENCES = "sequences.json"
MAX_GAP = 60
"""Numbers between labelled neighbours, of 30 a second, beyond which there is a cut: one gap in `0016E5` is of 1,950."""


def frames_before(
    data_dir: Path, labelled: Mapping[str, str], step: int, ids: Sequence[str], count: int
) -> list[list[str]]:
    """Find `count` frames before each of the labelled ones that have these `ids`.

    `labelled` has the image of every labelled frame by its name. With the video, `step` counts its frames, else
    labelled ones.

    Raises:
        DataError: a labelled frame is not in the video, or its name says no place.
    """
    folder = next((data_dir / name for name in _VIDEO_FOLDERS if (data_dir / name).is_dir()), None)
    places = _places(data_dir, labelled)
    if folder is None:
        sequences = Sequences({places[name]: path for name, path in labelled.items()}, max_gap=MAX_GAP)
        return [sequences.before(places[name], count, step=step) for name in ids]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    sequences = Sequences(by_place((path.stem, str(path)) for path in files), max_gap=1)
    absent = [name for name in ids if Frame.of(name) not in sequences]
    if absent:
        raise DataError(
            f"`{folder}` lacks {len(absent)} of {len(ids)} labelled frames, such as `{absent[0]}`: expected every "
            "frame of the video",
            hint="write all frames of a video, named as the labelled ones are (0016E5_07959.png), or take the folder "
            "away: the labelled frames then remember each other",
        )
    return [sequences.before(Frame.of(name), count, step=step) for name in ids]


def _places(data_dir: Path, names: Mapping[str, str]) -> dict[str, Frame]:
    """Read where frames are from `sequences.json`, where that is there and knows them, else from their names."""
    path = data_dir / _SEQUENCES
    try:
        told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = {name: Frame(row["sequence"], int(row["frame"])) for name, row in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"`{path}` cannot be read: {error!r}", hint='it holds {"NAME": {"sequence": ..., "frame": ...}}'
        ) from None
    return {name: known.get(name) or Frame.of(name) for name in names}
