"""Clips: which frames come before a labelled one, and what stands in for those that do not exist.

A clip is a labelled frame and the frames `step`, `2 step`, ... before it in its sequence. Where the sequence begins
later than that, its first frame takes the place: the first frame of all is its own past. A sequence never goes on
across a cut: across the border of two sequences, or a gap in their numbers.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import NamedTuple

from hfseg.errors import DataError
from hfseg.values import places_before

_NUMBERED = re.compile(r"(.*?)[_\-. /]*(\d+)")


class Frame(NamedTuple):
    """The place of a frame: its sequence, and its number there."""

    sequence: str
    number: int

    @classmethod
    def of(cls, name: str | PurePath) -> "Frame":
        """Read the place from a name without ending: `drive_000123` and `drive/123` are number 123 of `drive`.

        Raises:
            DataError: it does not end in a number.
        """
        text = name.as_posix() if isinstance(name, PurePath) else name
        found = _NUMBERED.fullmatch(text)
        if found is None:
            raise DataError(
                f"`{text}` ends in no number: its place among the frames is not known",
                hint="frames are called NUMBER, SEQUENCE_NUMBER or SEQUENCE/NUMBER, as 000123.jpg",
            )
        return cls(found[1], int(found[2]))


class Sequences:
    """Paths of frames in the order of their numbers, cut where a sequence ends or leaves out more than it may."""

    def __init__(self, frames: Mapping[Frame, str], *, max_gap: int) -> None:
        """Put frames in order; neighbours whose numbers differ by more than `max_gap` have a cut between them."""
        order = sorted(frames)
        self._paths = [frames[frame] for frame in order]
        self._places: dict[Frame, tuple[int, int]] = {}
        start = 0
        for place, frame in enumerate(order):
            last = order[place - 1] if place else frame
            if frame.sequence != last.sequence or frame.number - last.number > max_gap:
                start = place
            self._places[frame] = start, place

    def __contains__(self, frame: Frame) -> bool:
        return frame in self._places

    def before(self, frame: Frame, count: int, *, step: int) -> list[str]:
        """Give `count` frames before one, `step` apart, the oldest first; the first of the sequence is repeated."""
        start, place = self._places[frame]
        return [self._paths[each] for each in places_before(place, count, step=step, start=start)]


def by_place(files: Iterable[tuple[str | PurePath, str]]) -> dict[Frame, str]:
    """Order (name without ending, path) by the place that the name says.

    Raises:
        DataError: a name says none, or two say the same.
    """
    found: dict[Frame, str] = {}
    for name, path in files:
        frame = Frame.of(name)
        if frame in found:
            place = f"frame {frame.number}{f' of sequence `{frame.sequence}`' if frame.sequence else ''}"
            raise DataError(
                f"two files are {place}: got `{found[frame]}` and `{path}`",
                hint="take one away, or put sequences into folders of their own",
            )
        found[frame] = path
    return found
