"""Time to look at every mask against reading each by Pillow and NumPy: `python scripts/bench_check.py`.

Masks of 683 x 512 in 150 classes, as in ADE20K. The plain way opens each mask in one process and takes `np.unique` of its
values, with counts or without; it looks at nothing else. Ours does what `hfseg check` does: masks are read and counted
by class, and the header of each image is compared with its mask. The masks are made here: ellipses with frayed edges,
as drawn outlines have them.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw

from hfseg.data import FolderConfig
from hfseg.data.verify import inspect

WIDTH, HEIGHT, CLASSES, SHAPES = 683, 512, 150, 40


def make_pairs(data_dir: Path, count: int) -> float:
    """Write masks and small-content images into a folder; give the mean size of a mask in KB."""
    for folder in ("images", "masks"):
        (data_dir / folder).mkdir()
    image = Image.new("RGB", (WIDTH, HEIGHT), (120, 130, 140))
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = Image.new("L", (WIDTH, HEIGHT), 1 + int(rng.integers(CLASSES)))
        for _ in range(SHAPES):
            (left, right), (top, bottom) = np.sort(rng.integers(WIDTH, size=2)), np.sort(rng.integers(HEIGHT, size=2))
            box = [int(left), int(top), int(right), int(bottom)]
            ImageDraw.Draw(mask).ellipse(box, fill=1 + int(rng.integers(CLASSES)))
        frayed = np.asarray(mask)[np.arange(HEIGHT)[:, None], (np.arange(WIDTH) + rng.integers(-1, 2, (HEIGHT, WIDTH))).clip(0, WIDTH - 1)]  # fmt: skip
        Image.fromarray(frayed).save(data_dir / "masks" / f"{number:05d}.png")
        image.save(data_dir / "images" / f"{number:05d}.jpg")
    return statistics.mean(path.stat().st_size for path in (data_dir / "masks").iterdir()) / 1000


def plain(paths: list[Path], *, counts: bool) -> None:
    """Read every mask and take its values."""
    for path in paths:
        np.unique(np.asarray(Image.open(path)), return_counts=counts)


def histogram(path: Path) -> list[int]:
    """Count the values of one mask."""
    return Image.open(path).histogram()


def pooled(pool: Executor, paths: list[Path]) -> None:
    """Count every mask in the threads or processes of a pool."""
    with pool:
        list(pool.map(histogram, paths, chunksize=16))


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Make the masks, time the ways in turns, print the medians and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = make_pairs(Path(folder), options.masks)
        names = tuple(f"class {number}" for number in range(CLASSES))
        config = FolderConfig(
            data_dir=Path(folder), classes=names, first_value=1, validation_fraction=1 / options.masks
        )
        dataset = config.open("train")
        paths = [Path(row) for row in sorted((Path(folder) / "masks").iterdir())][: len(dataset)]
        ways: dict[str, Callable[[], object]] = {
            "hfseg check": lambda: inspect(dataset, workers=options.workers),
            "Pillow, np.unique": lambda: plain(paths, counts=False),
            "Pillow, np.unique with counts": lambda: plain(paths, counts=True),
            "histograms in threads": lambda: pooled(ThreadPoolExecutor(options.workers), paths),
            "histograms in processes": lambda: pooled(ProcessPoolExecutor(options.workers), paths),
        }
        plain(paths, counts=False)  # the files are in the cache of the system from here on
        rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(options.rounds)]
    print(f"{len(dataset)} masks of {WIDTH} x {HEIGHT}, {kilobytes:.0f} KB, {options.workers} workers")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Pillow {PIL.__version__}, "
          f"NumPy {np.__version__}, Python {platform.python_version()}")  # fmt: skip
    for name in ways:
        times = [found[name] for found in rounds]
        ratio = statistics.median(found[name] / found["hfseg check"] for found in rounds)
        print(f"{name:<30} {statistics.median(times):6.2f} s ({min(times):.2f} to {max(times):.2f}), "
              f"{ratio:.2f} times the time of hfseg check")  # fmt: skip


if __name__ == "__main__":
    main()
