"""Pictures that a data set holds twice, or nearly: the same file, another encoding of it, the next frame of a film.

A picture is reduced to a grid of 8 x 8 cells. A cell's bit is set where its mean lies above the median of all cells, in
brightness and in the two colour differences: three words of 64 bits. Two pictures differ by the share of the bits set
in either that are not set in both (Jaccard's distance), so that bits that no picture of a kind ever sets do not make it
like others.
Source: Yang, Gu and Niu, Block Mean Value Based Image Perceptual Hashing, 2006, on the cells and channels of MPEG-7's
colour layout.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from jaxtyping import Float32, Integer, UInt64
from PIL import Image

from hfseg.data.decode import open_picture
from hfseg.data.source import read_bytes
from hfseg.data.table import TableDataset
from hfseg.data.threads import in_order
from hfseg.data.verify import Problem, Progress
from hfseg.errors import DataError

GRID, CELL_PX = 8, 8
MARGIN = 0.5
"""How far above the median a cell must lie, of 255: less is noise of the encoding, and a plain area sets no bits."""
NEAR = 0.25
"""Largest difference of near duplicates. In CamVid, 41 of 101 validation frames, which lie within a training sequence,
are so near to a training frame; the nearest of 171,779 pairs of frames of different sequences differ by 0.29."""
NEAR_WITH_FEW_BITS = 0.06
FEW_BITS = 64
"""Bits set in either of two pictures below which they must be all but equal: grey pictures have a third of the bits,
and drives through different streets look alike without colour."""
PLAIN_BITS = 8
"""Pictures that set fewer bits show too little to be compared with any other."""
_PAIRS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Prints:
    """What the pictures of a data set look like, those left out that cannot be read."""

    names: tuple[str, ...]
    digests: tuple[bytes, ...]
    """Of the files."""
    looks: UInt64[np.ndarray, "n 3"]
    """Bits of the cells: brightness, blue difference, red difference."""
    problems: tuple[Problem, ...]

    @property
    def num_plain(self) -> int:
        """Pictures that show too little to be compared: only their files are."""
        return int((_num_bits(self.looks) < PLAIN_BITS).sum())


@dataclass(frozen=True)
class Twin:
    """A picture and the one that is most like it."""

    image: str
    twin: str
    difference: float
    """0 (none) to `NEAR`."""
    is_same_file: bool


@dataclass(frozen=True)
class Overlap:
    """The pictures of a part that another part holds too, or that stand twice in one part."""

    part: str
    among: str
    num_images: int
    """Of `part`."""
    twins: tuple[Twin, ...]
    """The most alike first."""

    @property
    def num_same_files(self) -> int:
        """Pictures whose file, byte for byte, is there twice."""
        return sum(twin.is_same_file for twin in self.twins)


def take_prints(dataset: TableDataset, *, workers: int, progress: Progress | None = None) -> Prints:
    """Read every image, JPEGs at a fraction of their size, with `workers` threads beside this one."""
    names, digests, looks, problems = [], [], [], []
    for done, print_ in enumerate(in_order(partial(_print, dataset), len(dataset), workers=workers), start=1):
        if isinstance(print_, Problem):
            problems.append(print_)
        else:
            names.append(print_[0])
            digests.append(print_[1])
            looks.append(print_[2])
        if progress is not None:
            progress(done, len(dataset))
    stacked = np.stack(looks) if looks else np.empty((0, 3), dtype=np.uint64)
    return Prints(tuple(names), tuple(digests), stacked, tuple(problems))


def find_twins(prints: Prints, among: Prints | None = None) -> tuple[Twin, ...]:
    """Find for each picture the one that is most like it `among` others, where there is one; the most alike come first.

    Without `among`, each picture is compared with those before it in the same data set.
    """
    others = prints if among is None else among
    same_file: dict[bytes, int] = {}
    if among is not None:
        same_file = {digest: place for place, digest in reversed(list(enumerate(among.digests)))}
    twins = []
    for place, (digest, (nearest, difference)) in enumerate(
        zip(prints.digests, _nearest(prints.looks, others.looks, before=among is None), strict=True)
    ):
        same = same_file.get(digest)
        if among is None:
            same_file.setdefault(digest, place)
        if same is not None:
            twins.append(Twin(prints.names[place], others.names[same], 0.0, True))
        elif difference <= NEAR:
            twins.append(Twin(prints.names[place], others.names[nearest], round(difference, 3), False))
    return tuple(sorted(twins, key=lambda twin: (not twin.is_same_file, twin.difference)))


def find_overlaps(parts: Mapping[str, Prints]) -> tuple[Overlap, ...]:
    """Compare each part with those before it, then each with itself."""
    pairs = [*((late, early) for early, late in combinations(parts, 2)), *((part, part) for part in parts)]
    return tuple(
        Overlap(part, among, len(parts[part].names), find_twins(parts[part], None if part == among else parts[among]))
        for part, among in pairs
    )


def look_of(image: Image.Image) -> UInt64[np.ndarray, " 3"]:
    """Reduce a picture to the bits of its cells."""
    side = GRID * CELL_PX
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX).convert("YCbCr"), dtype=np.float32)
    cells = pixels.reshape(GRID, CELL_PX, GRID, CELL_PX, 3).mean((1, 3)).reshape(-1, 3)
    bits = cells > np.median(cells, axis=0) + MARGIN
    words = np.packbits(bits.T.copy(), axis=1).view(np.uint64)
    return words[:, 0]


def _print(dataset: TableDataset, index: int) -> tuple[str, bytes, UInt64[np.ndarray, " 3"]] | Problem:
    name = dataset.name
    try:
        record = dataset.record(index)
        name = record.image_name
        if isinstance(record.image, list):
            raise DataError(f"`{name}` is a list of numbers: expected an image file")
        data = read_bytes(record.image, name=name)
        picture = open_picture(data, name=name)
        image, _ = picture.decode(shrink=min(picture.size) / (GRID * CELL_PX))
    except DataError as error:
        return Problem("image", index, name, error.message, error.hint)
    return name, hashlib.blake2b(data, digest_size=16).digest(), look_of(image)


def _num_bits(looks: UInt64[np.ndarray, "n 3"]) -> Integer[np.ndarray, " n"]:
    bits: Integer[np.ndarray, " n"] = np.bitwise_count(looks).sum(1, dtype=np.int32)
    return bits


def _nearest(
    looks: UInt64[np.ndarray, "n 3"], others: UInt64[np.ndarray, "m 3"], *, before: bool
) -> Iterator[tuple[int, float]]:
    """Give the nearest of the others to each, and its difference: infinite where none is near."""
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    for start in range(0, len(looks), rows):
        differences = _differences(looks[start : start + rows], others)
        if before:
            differences[np.arange(len(others)) >= np.arange(start, start + len(differences))[:, None]] = np.inf
        if not len(others):
            yield from [(0, np.inf)] * len(differences)
            continue
        places = differences.argmin(1)
        yield from zip(places.tolist(), differences[np.arange(len(places)), places].tolist(), strict=True)


def _differences(looks: UInt64[np.ndarray, "n 3"], others: UInt64[np.ndarray, "m 3"]) -> Float32[np.ndarray, "n m"]:
    """Give the share of set bits that two pictures do not have in common: infinite where they are not near."""
    ours, theirs = _num_bits(looks)[:, None], _num_bits(others)
    unequal = np.zeros((len(looks), len(others)), dtype=np.int32)
    for word in range(looks.shape[1]):
        unequal += np.bitwise_count(looks[:, None, word] ^ others[None, :, word])
    either = (ours + theirs + unequal) // 2
    allowed = np.where(either < FEW_BITS, NEAR_WITH_FEW_BITS, NEAR)
    share = unequal / np.maximum(either, 1)
    is_near = (share <= allowed) & (ours >= PLAIN_BITS) & (theirs >= PLAIN_BITS)
    return np.where(is_near, share, np.inf).astype(np.float32)
