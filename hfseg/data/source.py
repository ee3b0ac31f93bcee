"""Where the bytes of an image lie: in a table, in a file, in a zip archive, or behind an address."""

import io
import os
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hfseg.data.footage import VIDEO, frame_file, split_frame_path
from hfseg.errors import DataError

Source = Mapping[str, Any] | list[Any]
"""An undecoded image: `bytes` or a `path` (as `datasets.Image(decode=False)` gives it), or the rows of a small table.

A path is a file, `zip://member::archive.zip`, `video://number::file.mp4`, or any address that fsspec opens.
"""

ZIP = "zip://"
MAX_MEMBER_BYTES = 1 << 30
"""The most that one image in an archive may unpack to: a small archive can claim any size."""


def zip_path(member: str, archive_path: Path) -> str:
    """Write the path of a file inside a zip archive."""
    return f"{ZIP}{member}::{archive_path}"


def source_name(source: Source, *, fallback: str) -> str:
    """Name a source as messages do: its path, or `fallback` where it has none."""
    path = source.get("path") if isinstance(source, Mapping) else None
    if not path:
        return fallback
    if str(path).startswith(VIDEO):
        number, video_path = split_frame_path(str(path))
        return f"{video_path}, frame {number}"
    member, archive = _split_zip(str(path))
    return f"{archive}/{member}" if archive else str(path)


def source_stem(source: Source) -> str | None:
    """Give the file name of a source without its ending, or None where it has no name."""
    path = source.get("path") if isinstance(source, Mapping) else None
    return Path(str(path).split("::", 1)[0]).stem if path else None


def open_source(source: Mapping[str, Any], *, name: str) -> io.BufferedIOBase:
    """Open a source for reading.

    Raises:
        DataError: there is nothing, or it cannot be read; names it.
    """
    if source.get("bytes") is not None:
        return io.BytesIO(source["bytes"])
    path = source.get("path")
    if not path:
        raise DataError(f"`{name}` is empty: expected the bytes or the path of an image")
    try:
        return _open_path(str(path))
    except KeyError:
        raise DataError(f"`{name}` is not in the archive any more") from None
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: an encrypted member
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"`{name}` cannot be read: {reason}") from None


def read_bytes(source: Mapping[str, Any], *, name: str) -> bytes:
    """Read a source as a whole.

    Raises:
        DataError: it cannot be read; names it.
    """
    if source.get("bytes") is not None:
        return cast(bytes, source["bytes"])
    with open_source(source, name=name) as file:
        try:
            return file.read()
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"`{name}` cannot be read: {error}") from None


def _open_path(path: str) -> io.BufferedIOBase:
    if path.startswith(VIDEO):
        return io.BytesIO(frame_file(path))
    member, archive = _split_zip(path)
    if archive and "://" not in archive:
        return _open_member(_archive(archive, os.getpid()), member)
    if "://" in path:
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(path, "rb") as file:
            return io.BytesIO(file.read())
    return Path(path).open("rb")


def _open_member(archive: zipfile.ZipFile, member: str) -> io.BufferedIOBase:
    """Open what an archive calls `member`, whatever such a path would mean outside; never gives more than it claims."""
    size = archive.getinfo(member).file_size
    if size > MAX_MEMBER_BYTES:
        raise DataError(
            f"`{archive.filename}/{member}` unpacks to {size:,} bytes: expected an image of at most "
            f"{MAX_MEMBER_BYTES:,}",
            hint="a small archive that claims to be huge is a way to fill a machine's memory",
        )
    return cast(io.BufferedIOBase, archive.open(member))


def _split_zip(path: str) -> tuple[str, str | None]:
    if not path.startswith(ZIP):
        return path, None
    member, _, archive = path.removeprefix(ZIP).partition("::")
    return member, archive


@lru_cache(maxsize=4)
def _archive(path: str, process_id: int) -> zipfile.ZipFile:
    """Keep an archive open in each process: a handle that two processes share would share its position too."""
    return zipfile.ZipFile(path)
