"""Time one update of the mIoU metric, and watch its memory over 500 images, against the arithmetic of `evaluate`.

Then the parts that `hfseg evaluate` adds: areas of every image, boundary bands, and intervals from resampled images.

`evaluate.load("mean_iou")` downloads its code, so it is restated here from its documented formulas, as a metric with
the same inputs that works through `add_batch` and `compute` and keeps every pixel in between, as that one does.
"""

import platform
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from hfseg.metrics import BootstrapConfig, Counting, ImageAreas, confusion
from hfseg.metrics.mean_iou import MeanIou

SIZE, CLASSES, IMAGES = (512, 683), 150, 500
CASES = (((360, 480), 11), (SIZE, CLASSES), ((1024, 2048), 19))
RESAMPLED = 2000


class Published(evaluate.Metric):
    """The published `mean_iou`: areas by histogram, image by image, at `compute`."""

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": image, "references": image}),
        )  # fmt: skip

    def _compute(self, predictions: Any, references: Any, num_labels: int, ignore_index: int) -> dict[str, float]:
        total = np.zeros((3, num_labels))
        for prediction, reference in zip(predictions, references, strict=True):
            pred, labels = np.array(prediction), np.array(reference)
            kept = labels != ignore_index
            pred, labels = pred[kept], labels[kept]
            areas = [
                np.histogram(values, bins=num_labels, range=(0, num_labels - 1))[0]
                for values in (pred[pred == labels], pred, labels)
            ]
            total += np.stack(areas)
        hit, predicted, labelled = total
        with np.errstate(invalid="ignore"):
            return {"mean_iou": float(np.nanmean(hit / (predicted + labelled - hit)))}


def maps(seed: int, size: tuple[int, int] = SIZE, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Make labels of blobs with a tenth ignored, and a prediction that is right on 70 % of the pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size[0] // 32 + 1, size[1] // 32 + 1))
    labels = np.kron(coarse, np.ones((32, 32), dtype=int))[: size[0], : size[1]]
    pred = np.where(rng.random(size) < 0.7, labels, rng.integers(0, classes, size))
    return pred, np.where(rng.random(size) < 0.1, 255, labels).astype(np.uint8)


def milliseconds(update: Callable[[], Any], runs: int) -> float:
    """Give the median time of an update after two that warm up."""
    times = []
    for _ in range(runs + 2):
        began = time.perf_counter()
        update()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[2:])


def peak_mb() -> float:
    """Give the most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show_counting() -> None:
    """Print what areas of every image and boundary bands add to counting a set's pixels, an image at a time."""
    for size, classes in CASES:
        pred, labels = (torch.from_numpy(values)[None] for values in maps(0, size, classes))
        counts = (partial(confusion, num_labels=classes), Counting(classes), Counting(classes, boundary_width=0.02))
        plain, areas, bands = (milliseconds(partial(count, pred, labels), 20) for count in counts)
        print(f"{size[0]} x {size[1]}, {classes} classes: pixels of the set {plain:.2f} ms, "
              f"and areas of the image {areas:.2f} ms, and boundary bands {bands:.2f} ms")  # fmt: skip


def show_intervals() -> None:
    """Print the time of 1,000 resamples: intervals of one model, and the difference of two."""
    rng = torch.Generator().manual_seed(0)
    areas = torch.randint(0, 2000, (RESAMPLED, 3, CLASSES), generator=rng)
    areas[:, 1:] += areas[:, :1]
    model, bootstrap = ImageAreas(tuple(map(str, range(RESAMPLED))), areas), BootstrapConfig()
    alone = milliseconds(lambda: bootstrap.intervals(areas), 5)
    paired = milliseconds(lambda: bootstrap.difference(model, model), 5)
    print(f"{bootstrap.resamples} resamples of {RESAMPLED} images, {CLASSES} classes: "
          f"intervals {alone:.0f} ms, difference of two models {paired:.0f} ms")  # fmt: skip


def main() -> None:
    """Print times, ratio and memory."""
    torch.set_num_threads(1)
    pred, labels = maps(0)
    ours = MeanIou(num_labels=CLASSES)
    pred_tensor, labels_tensor = torch.from_numpy(pred), torch.from_numpy(labels)

    def add() -> None:
        ours.add(prediction=pred_tensor, reference=labels_tensor)

    def published() -> float:
        metric = Published()
        metric.add_batch(predictions=[pred], references=[labels])
        return float(metric.compute(num_labels=CLASSES, ignore_index=255)["mean_iou"])

    pool = [[torch.from_numpy(values) for values in maps(seed)] for seed in range(10)]
    add()
    first = peak_mb()  # before the published way runs: it raises the peak of this process
    for index in range(1, IMAGES):
        ours.add(prediction=pool[index % 10][0], reference=pool[index % 10][1])
    print(f"peak memory over {IMAGES} images: +{peak_mb() - first:.1f} MB after the first")
    ours.compute()
    our_ms, their_ms = milliseconds(add, 50), milliseconds(published, 10)
    assert abs(ours.compute()["mean_iou"] - published()) < 1e-12
    print(f"one update, {SIZE[0]} x {SIZE[1]}, {CLASSES} classes: {our_ms:.2f} ms, published way {their_ms:.1f} ms: "
          f"{their_ms / our_ms:.0f} times faster (target 20)")  # fmt: skip
    metric, before = Published(), peak_mb()
    for _ in range(IMAGES // 10):
        metric.add_batch(predictions=[pred], references=[labels])
    metric.compute(num_labels=CLASSES, ignore_index=255)
    print(f"published way over {IMAGES // 10} images: +{peak_mb() - before:.0f} MB")
    show_counting()
    show_intervals()
    print(
        f"1 thread, torch {torch.__version__}, numpy {np.__version__}, python {platform.python_version()}, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
