"""What the inputs of a command stand for: images, clips, and what is made of them is called."""

import glob
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hfseg.data import read_image
from hfseg.errors import DataError
from hfseg.video import VIDEO_SUFFIXES, Clip, ImageSequence, VideoFile

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Inputs:
    """The images and clips that were found, each once, in a stable order."""

    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    sequences: dict[Path, tuple[Path, ...]]
    """Folders that are one clip each, with their images."""

    def names(self) -> dict[Path, Path]:
        """Name what is made of each, without ending; where two have one name, all keep their folder's."""
        paths = [*self.images, *self.videos, *self.sequences]
        if len({path.stem for path in paths}) == len(paths):
            return {path: Path(path.stem) for path in paths}
        full = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100  # takes out `..`, keeps links
        root = os.path.commonpath([path.parent for path in full.values()])
        return {path: each.relative_to(root).with_name(path.name.replace(".", "_")) for path, each in full.items()}

    @property
    def clips(self) -> tuple[Path, ...]:
        """The video files, and the folders that are a clip each."""
        return (*self.videos, *self.sequences)

    def open_clip(self, path: Path, *, fps: float) -> Clip:
        """Open a video file, or a folder of images that is one clip of `fps` frames a second.

        Raises:
            DataError: the file is no video.
        """
        if path not in self.sequences:
            return VideoFile(path)
        rate = Fraction(fps).limit_denominator(1001)
        return ImageSequence(path, self.sequences[path], rate=rate, read=read_image)


def find_inputs(texts: tuple[str, ...], *, as_video: bool = False) -> Inputs:
    """Find what files, folders (searched deeply) and globs stand for; with `as_video`, folders of images are clips.

    Raises:
        DataError: an input stands for nothing, or with `as_video` for images that are no clip; or none is a folder.
    """
    images: dict[Path, None] = {}
    videos: dict[Path, None] = {}
    sequences: dict[Path, tuple[Path, ...]] = {}
    for text in texts:
        found = _matches(text, deeply=not as_video)
        if not found:
            raise DataError(
                f"input `{text}` stands for no image and no video: expected a file, a folder, or a glob",
                hint=f"endings that are known: {' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}",
            )
        clips = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
        pictures = [path for path in found if path.suffix.lower() not in VIDEO_SUFFIXES]
        videos.update(dict.fromkeys(clips))
        if not as_video:
            images.update(dict.fromkeys(pictures))
        elif pictures:
            sequences[_one_folder(text, pictures)] = tuple(pictures)
    if as_video and not sequences:
        raise DataError(f"no input is a folder of images: got {len(videos)} videos", hint="leave out --as-video")
    return Inputs(tuple(images), tuple(videos), sequences)


def _matches(text: str, *, deeply: bool) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        inner = sorted(path.rglob("*") if deeply else path.iterdir())
        return [file for file in inner if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if path.exists():
        return [path]
    found = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
    return [Path(match) for match in found if Path(match).is_file()]


def _one_folder(text: str, pictures: list[Path]) -> Path:
    """The folder that holds the images of one clip.

    Raises:
        DataError: they are in several folders, or there is one image and no folder was named.
    """
    folders = {picture.parent for picture in pictures}
    if len(folders) > 1 or Path(text).is_file():
        got = "one image" if len(folders) == 1 else f"images in {len(folders)} folders"
        raise DataError(f"input `{text}` is no clip: got {got}, expected a folder of frames", hint="name the folder")
    return folders.pop()
