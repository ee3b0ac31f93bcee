"""Images per second of the loader against a plain one: `python scripts/bench_loader.py`.

JPEG images of 683 x 512 and their masks become augmented crops of 512 x 512, read by one worker. The plain way is that
of the Transformers segmentation example: decode, resize the whole image and mask to the random scale, crop, flip, turn
into floats, normalize, everything on the host. Ours decodes, resizes the crop only and hands over bytes; flips, colours
and normalization follow on the device, and that part is timed apart. The images are made here: shapes and noise.
"""

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset

from hfseg.data import AugmentConfig, FolderConfig, LoaderConfig, Photometric, TableDataset, train_loader
from hfseg.values import Batch

WIDTH, HEIGHT, CROP, CLASSES, BATCH = 683, 512, 512, 150, 8
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def make_images(data_dir: Path, count: int) -> float:
    """Write images and masks into a folder; give the mean size of a JPEG in KB."""
    rng = np.random.default_rng(0)
    sizes = []
    for folder in ("images", "masks"):
        (data_dir / folder).mkdir()
    for number in range(count):
        mask = Image.new("L", (WIDTH, HEIGHT), int(rng.integers(CLASSES)))
        image = Image.new("RGB", (WIDTH, HEIGHT), tuple(int(c) for c in rng.integers(256, size=3)))
        for _ in range(40):
            (left, right), (top, bottom) = np.sort(rng.integers(WIDTH, size=2)), np.sort(rng.integers(HEIGHT, size=2))
            box = [int(left), int(top), int(right), int(bottom)]
            ImageDraw.Draw(image).ellipse(box, fill=tuple(int(c) for c in rng.integers(256, size=3)))
            ImageDraw.Draw(mask).ellipse(box, fill=int(rng.integers(CLASSES)))
        noisy = np.asarray(image) + rng.normal(0, 7, (HEIGHT, WIDTH, 1)) + rng.normal(0, 2, (HEIGHT, WIDTH, 3))
        path = data_dir / "images" / f"{number:04d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=88)
        mask.save(data_dir / "masks" / f"{number:04d}.png")
        sizes.append(path.stat().st_size / 1000)
    return statistics.mean(sizes)


class PlainDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every step on the host, the way of the Transformers example."""

    def __init__(self, data_dir: Path, count: int) -> None:
        self.data_dir = data_dir
        self.count = count

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        stem = f"{index % self.count:04d}"
        image = Image.open(self.data_dir / "images" / f"{stem}.jpg").convert("RGB")
        mask = Image.open(self.data_dir / "masks" / f"{stem}.png")
        scale = random.uniform(0.5, 2.0)
        size = (round(WIDTH * scale), round(HEIGHT * scale))
        image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
        left, top = random.randint(0, max(0, size[0] - CROP)), random.randint(0, max(0, size[1] - CROP))
        right, bottom = min(left + CROP, size[0]), min(top + CROP, size[1])
        canvas, labels = Image.new("RGB", (CROP, CROP)), Image.new("L", (CROP, CROP), 255)
        canvas.paste(image.crop((left, top, right, bottom)))
        labels.paste(mask.crop((left, top, right, bottom)))
        if random.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).contiguous().float() / 255
        pixels = pixels.clone().sub_(MEAN[:, None, None]).div_(STD[:, None, None])  # torchvision's normalize clones
        return pixels, torch.from_numpy(np.array(labels)).long()


def images_per_second(batches: Iterator[object], steps: int) -> float:
    """Time `steps` batches after four that fill the queue."""
    list(islice(batches, 4))
    start = time.perf_counter()
    list(islice(batches, steps))
    return steps * BATCH / (time.perf_counter() - start)


def median_ratio(ours: Callable[[], float], plain: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Time both in turns; give the medians and the median of the ratios."""
    pairs = [(ours(), plain()) for _ in range(rounds)]
    print("\n".join(f"  round {i}: ours {a:.1f}, plain {b:.1f} images/s" for i, (a, b) in enumerate(pairs, 1)))
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(
        a / b for a, b in pairs
    )  # fmt: skip


def device_part(dataset: TableDataset, augment: AugmentConfig, loader: LoaderConfig) -> float:
    """Time flips, colours and floats of one batch, where it would happen in training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch: Batch = next(iter(train_loader(dataset, augment, loader, seed=0))).to(device)
    change = Photometric(augment)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        change(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return BATCH / statistics.median(times[2:])


def main() -> None:
    """Make the images, time both ways, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24, help="timed batches of 8 in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    augment, loader = AugmentConfig(crop_size=CROP), LoaderConfig(batch_size=BATCH, workers=1)
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = make_images(Path(folder), options.images)
        names = tuple(f"class {number}" for number in range(CLASSES))
        dataset = FolderConfig(data_dir=Path(folder), classes=names, validation_fraction=0.02).open("train")
        plain = PlainDataset(Path(folder), options.images)

        def ours_once() -> float:
            return images_per_second(iter(train_loader(dataset, augment, loader, seed=0)), options.steps)

        def plain_once() -> float:
            return images_per_second(iter(DataLoader(plain, batch_size=BATCH, num_workers=1)), options.steps)

        print(f"{WIDTH} x {HEIGHT} JPEG, {kilobytes:.0f} KB -> {CROP} x {CROP}, one worker, batch {BATCH}")
        print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
              f"torch {torch.__version__}, Pillow {PIL.__version__}, Python {platform.python_version()}")  # fmt: skip
        ours, other, ratio = median_ratio(ours_once, plain_once, options.rounds)
        print(f"ours {ours:.1f} images/s, plain {other:.1f} images/s, ratio {ratio:.2f}")
        device = "GPU" if torch.cuda.is_available() else "CPU"
        print(f"on the {device}, flips and colours: {device_part(dataset, augment, loader):.1f} images/s")
        rare = TableDataset(dataset.table, dataset.labels, name="rare", rare_class_crop=True)
        covered = AugmentConfig(crop_size=CROP, erase=0.5, copy_paste=0.5)
        for what, data, settings in (("rare-class crops", rare, augment), ("erasing and copy-paste", dataset, covered)):
            speed = images_per_second(iter(train_loader(data, settings, loader, seed=0)), options.steps)
            print(f"with {what}: {speed:.1f} images/s")
        degraded = AugmentConfig(crop_size=CROP, blur=0.5, noise=0.5)
        print(f"on the {device}, with blur and noise: {device_part(dataset, degraded, loader):.1f} images/s")


if __name__ == "__main__":
    main()
