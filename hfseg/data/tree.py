"""The image files of a data set that lies in folders or in a zip archive, which need not be unpacked."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hfseg.data.layout import IMAGE_ENDINGS
from hfseg.data.pairing import pair_by_stem
from hfseg.data.source import zip_path
from hfseg.errors import DataError

Address = str
"""The path of a file, or `zip://member::archive`."""


@dataclass(frozen=True)
class Tree:
    """The image files below a folder, or inside an archive."""

    root: Path
    members: tuple[Path, ...] | None = None
    """What the archive `root` holds; None where `root` is a folder."""

    def files(self, pattern: str) -> list[Path]:
        """Find image files by a glob, sorted; hidden ones are left out.

        The glob starts at the folder. In an archive any folders may lead to it, the archive's own name among them.
        """
        if self.members is None:
            found = [path for path in self.root.glob(pattern) if path.is_file()]
        else:
            found = [member for member in self.members if (self.root.stem / member).match(pattern)]
        return sorted(p for p in found if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith("."))

    def address(self, file: Path) -> Address:
        """Write a file that was found as a table holds it."""
        return str(file) if self.members is None else zip_path(file.as_posix(), self.root)


def open_tree(data_dir: Path, inside: str, *, folders: Sequence[str] = ("",), archive: str) -> Tree | None:
    """Find the folder that holds `inside`, among `folders` of `data_dir`, or else an archive.

    The archive is `data_dir` itself, or the file of that name in it.

    Raises:
        DataError: the archive is broken.
    """
    for folder in folders:
        if (data_dir / folder / inside).is_dir():
            return Tree(data_dir / folder)
    for path in (data_dir, data_dir / archive):
        if path.is_file() and path.suffix == ".zip":
            return Tree(path, _members(path))
    return None


def paired(images: Tree, image_glob: str, masks: Tree, mask_glob: str) -> list[tuple[Address, Address]]:
    """Match the images and masks that two globs find, by stem.

    Raises:
        DataError: a glob finds nothing, or a file has no partner.
    """
    found = []
    for tree, pattern in ((images, image_glob), (masks, mask_glob)):
        found.append(tree.files(pattern))
        if not found[-1]:
            raise DataError(f"`{tree.root}` holds no {pattern}")
    pairs = pair_by_stem(*found, where=f"`{images.root}`, {image_glob}")
    return [(images.address(image), masks.address(mask)) for image, mask in pairs]


def _members(archive_path: Path) -> tuple[Path, ...]:
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = [PurePosixPath(name) for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        hint = "it may not be wholly downloaded: compare its size with the server's"
        raise DataError(f"`{archive_path}` cannot be read: {error}", hint=hint) from None
    outside = next((member for member in members if member.is_absolute() or ".." in member.parts), None)
    if outside is not None:
        raise DataError(
            f"`{archive_path}` holds `{outside}`, which lies outside of it",
            hint="no tool packs images so: it was made to overwrite files where it is unpacked",
        )
    return tuple(Path(member) for member in members if "__MACOSX" not in member.parts)  # macOS adds folders of its own
