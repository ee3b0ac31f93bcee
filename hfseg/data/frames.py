"""Videos with labels: frames of sequences in folders, or video files, of which some frames or all have masks.

```
images/000470.jpg                images/drive/000470.jpg       images/drive.mp4 (frames count from 0)
masks/000470.png                 masks/drive/000470.png        masks/drive/000470.png
```

The number at the end of a name is the place in time. Frames without a mask are memory of those that have one. The parts
are those of `train.txt`, `val.txt` and `test.txt`, a name a line; or, without the last two, each sequence is divided in
time.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from hfseg.data.clips import Frame, Sequences, by_place
from hfseg.data.footage import VIDEO_ENDINGS, count_frames, frame_path
from hfseg.data.layout import IMAGE_ENDINGS
from hfseg.data.record import Record
from hfseg.data.settings import ClipSettings
from hfseg.data.space import LabelSettings, label_space
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

_LISTS: dict[Split, str] = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
SPLIT_SIZES, SPLIT_GAP = (0.6, 0.2, 0.2), 50


class FramesConfig(LabelSettings, ClipSettings):
    """Videos of which some or all frames are labelled, as `images/` and `masks/`."""

    kind: Literal["frames"] = "frames"
    data_dir: Path
    """The folder that holds `images` (frames, in folders by sequence or not, or video files) and `masks`."""
    max_gap: PositiveInt = 1
    """Largest difference of the numbers of neighbouring frames; there is a cut where it is larger."""
    split_sizes: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = SPLIT_SIZES
    """Shares of training, validation and test, in this order in time, where no val.txt or test.txt is there."""
    split_gap: NonNegativeInt = SPLIT_GAP
    """Frames after each of these parts that are in none: neighbours in time are nearly the same image."""

    @model_validator(mode="after")
    def _trains(self) -> "FramesConfig":
        if not self.split_sizes[0]:
            raise ValueError(f"`split_sizes` leaves nothing to train on: got {[*self.split_sizes]}")
        return self

    def labels(self) -> LabelSpace:
        """Give the classes: from the settings, from a file in the folder, or by scanning every mask.

        Raises:
            DataError: names, values and colours do not fit together, or there are no masks.
        """
        return self._space(_Files(self.data_dir))

    def open(self, split: Split) -> TableDataset:
        """Open the labelled frames of one part; ids are `SEQUENCE_NUMBER`, as the masks have it.

        Raises:
            DataError: a folder, a part or the frame of a mask is missing, or a name holds no number.
        """
        files = _Files(self.data_dir)
        chosen = self._part(files, split)
        table = table_of((files.images[frame], files.masks[frame]) for frame in chosen)
        table = table.remove_columns("id").add_column("id", [files.ids[frame] for frame in chosen])
        return TableDataset(
            table,
            self._space(files),
            name=self.data_dir.resolve().name,
            rare_class_crop=self.rare_class_crop,
            history=partial(_before, files, self.max_gap, self.frame_step),
        )

    def _space(self, files: "_Files") -> LabelSpace:
        return label_space(self, lambda: files.records, data_dir=self.data_dir)

    def _part(self, files: "_Files", split: Split) -> list[Frame]:
        """Give the labelled frames of one part in order."""
        lists = {part: path for part, name in _LISTS.items() if (path := self.data_dir / name).is_file()}
        if lists.keys() - {"train"}:
            if (self.split_sizes, self.split_gap) != (SPLIT_SIZES, SPLIT_GAP):
                raise DataError(
                    f"`{self.data_dir}` has lists of its parts: `data.split_sizes` and `data.split_gap` do nothing",
                    hint="leave them out, or take val.txt and test.txt away",
                )
            if split not in lists:
                names = ", ".join(path.name for path in lists.values())
                raise DataError(f"`{self.data_dir}` has no `{split}` part: found {names}", hint=f"add {_LISTS[split]}")
            return files.listed(lists[split])
        pool = files.listed(lists["train"]) if lists else sorted(files.masks)
        chosen = [frame for _, run in groupby(pool, lambda frame: frame.sequence) for frame in self._cut(run, split)]
        if not chosen:
            raise DataError(
                f"`{self.data_dir}` has no `{split}` part: {len(pool)} labelled frames are divided in time into "
                f"{[*self.split_sizes]}, {self.split_gap} frames apart",
                hint="set data.split_sizes and data.split_gap, or name the parts in train.txt, val.txt and test.txt",
            )
        return chosen

    def _cut(self, run: Iterator[Frame], split: Split) -> list[Frame]:
        """Take the part of one sequence, without the frames too near to the part before it."""
        frames = list(run)
        shares = accumulate(self.split_sizes, initial=0)
        bounds = [round(len(frames) * share / sum(self.split_sizes)) for share in shares]
        start, stop = list(pairwise(bounds))[[*_LISTS].index(split)]
        far = frames[start - 1].number + self.split_gap if start else -1
        return [frame for frame in frames[start:stop] if frame.number > far]


class _Files:
    """The files of the data set, by their place in time."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        for name in ("images", "masks"):
            if not (data_dir / name).is_dir():
                raise DataError(
                    f"no frames in `{data_dir}`: looked for `{data_dir / name}`",
                    hint="frames or videos lie in images/, masks of some or all of them in masks/",
                )

    @cached_property
    def images(self) -> dict[Frame, str]:
        """Every frame there is."""
        found = [(path, str(self._data_dir / "images" / path)) for path in self._found("images", IMAGE_ENDINGS)]
        videos = self._found("images", VIDEO_ENDINGS)
        return by_place([*((path.with_suffix(""), where) for path, where in found), *self._video_frames(videos)])

    @cached_property
    def masks(self) -> dict[Frame, str]:
        """The masks; each has a frame."""
        paths = self._found("masks", IMAGE_ENDINGS)
        masks = by_place((path.with_suffix(""), str(self._data_dir / "masks" / path)) for path in paths)
        lonely = [path for frame, path in masks.items() if frame not in self.images]
        if lonely or not masks:
            got = f"{len(lonely)} have none, such as `{lonely[0]}`" if lonely else "there are no masks"
            raise DataError(
                f"masks of `{self._data_dir}` belong to frames of `images`: {got}",
                hint="the mask of frame images/drive/000470.jpg, or of frame 470 of images/drive.mp4, is "
                "masks/drive/000470.png",
            )
        return masks

    @cached_property
    def ids(self) -> dict[Frame, str]:
        """The names of the labelled frames, one for each."""
        folder = self._data_dir / "masks"
        ids = {
            frame: "_".join(Path(path).relative_to(folder).with_suffix("").parts) for frame, path in self.masks.items()
        }
        seen: dict[str, Frame] = {}
        for frame, name in ids.items():
            if name in seen:
                raise DataError(
                    f"two masks are called `{name}`: got `{self.masks[seen[name]]}` and `{self.masks[frame]}`",
                    hint="give one of the sequences another name",
                )
            seen[name] = frame
        return ids

    @property
    def records(self) -> list[Record]:
        """Every labelled frame."""
        return [
            Record({"path": self.images[frame]}, {"path": path}, self.ids[frame]) for frame, path in self.masks.items()
        ]

    def listed(self, list_path: Path) -> list[Frame]:
        """Read which labelled frames a list names."""
        lines = [line.strip() for line in list_path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        suffixes = IMAGE_ENDINGS | VIDEO_ENDINGS
        names = [Path(line) for line in lines]
        frames = [Frame.of(name.with_suffix("") if name.suffix.lower() in suffixes else name) for name in names]
        for name, frame in zip(lines, frames, strict=True):
            if frame not in self.masks:
                raise DataError(f"`{list_path}` names `{name}`: no mask of that name in `{self._data_dir / 'masks'}`")
        return sorted(set(frames))

    def _found(self, folder: str, endings: set[str]) -> list[Path]:
        base = self._data_dir / folder
        paths = (path.relative_to(base) for path in base.rglob("*") if path.suffix.lower() in endings)
        return sorted(path for path in paths if not path.name.startswith("."))

    def _video_frames(self, videos: Sequence[Path]) -> Iterator[tuple[str, str]]:
        for video in videos:
            path = self._data_dir / "images" / video
            for number in range(count_frames(path)):
                yield f"{video.with_suffix('').as_posix()}/{number}", frame_path(number, path)


def _before(files: _Files, max_gap: int, step: int, ids: Sequence[str], count: int) -> list[list[str]]:
    """Find the frames before the labelled frames that have these ids."""
    frame_of = {name: frame for frame, name in files.ids.items()}
    sequences = Sequences(files.images, max_gap=max_gap)
    return [sequences.before(frame_of[name], count, step=step) for name in ids]
