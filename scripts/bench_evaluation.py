"""Time and peak memory of evaluation, the model's own time left out: `python scripts/bench_evaluation.py [FOLDER]`.

Ours is `hfseg.engine.evaluation.evaluate` with `hfseg.metrics.Counting`. The other way is that of the Transformers
example: all logits resized to the labels, argmax, and `evaluate`'s `mean_iou`, which is restated here from its
formulas and its features (`datasets.Image`), because `evaluate.load` downloads its code.

40 images of 360 x 480: those of `FOLDER/images/test` with `FOLDER/masks/test` (CamVid), or made up. Logits are computed
beforehand and read from the disk in place of the model: those of SegFormer-B0 with random weights; labels at a quarter
of their size with noise, such as a trained model gives; and nothing but noise, the worst case. Each way runs in a
process of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from hfseg.values import Batch, SegOutput

IMAGES, SIZE, BATCH = 40, (360, 480), 4
CLEAR_REFS = Path("/proc/self/clear_refs")
"""Linux resets a process's peak memory when a 5 is written here."""


class Ready(nn.Module):
    """Reads the logits of one batch after another from the disk, and knows how long that took."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.paths = sorted(folder.glob("logits-*.npy"))
        self.seconds = 0.0

    def forward(self, pixel_values: Tensor) -> SegOutput:
        """Give the logits of the next batch."""
        began = time.perf_counter()
        logits = torch.from_numpy(np.load(self.paths.pop(0))[: len(pixel_values)])
        self.seconds += time.perf_counter() - began
        return SegOutput(logits)


def ours(model: Ready, batches: Iterator[Batch], num_labels: int) -> float:
    """Evaluate as hfseg does and give the mean IoU."""
    from hfseg.engine.evaluation import evaluate
    from hfseg.engine.inference import WholeConfig
    from hfseg.engine.runtime import RuntimeConfig
    from hfseg.metrics import Counting, Scores

    runtime, count = RuntimeConfig(cpu=True).start(), Counting(num_labels)
    found = evaluate(model, batches, protocol=WholeConfig(), count=count, criterion=None, runtime=runtime)
    return Scores.from_confusion(found.totals["confusion"]).mean_iou


def published(model: Ready, batches: Iterator[Batch], num_labels: int) -> float:
    """Evaluate as the Transformers example does and give the mean IoU."""
    metric = published_metric()
    for batch in batches:
        logits = model(batch.pixel_values).logits
        pred = F.interpolate(logits, size=batch.labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
        metric.add_batch(predictions=list(pred.numpy()), references=list(batch.labels.numpy()))
    return float(metric.compute(num_labels=num_labels, ignore_index=255)["mean_iou"])


def published_metric() -> Any:
    """Make the published `mean_iou`: maps kept as images, areas by histogram at `compute`."""
    import datasets
    import evaluate

    class MeanIou(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            features = datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()})
            return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

        def _compute(self, predictions: Any, references: Any, num_labels: int, ignore_index: int) -> dict[str, float]:
            areas = np.zeros((3, num_labels))
            for prediction, reference in zip(predictions, references, strict=True):
                pred, labels = np.array(prediction), np.array(reference)
                kept = labels != ignore_index
                pred, labels = pred[kept], labels[kept]
                for row, values in enumerate((pred[pred == labels], pred, labels)):
                    areas[row] += np.histogram(values, bins=num_labels, range=(0, num_labels - 1))[0]
            hit, predicted, labelled = areas
            with np.errstate(invalid="ignore"):
                return {"mean_iou": float(np.nanmean(hit / (predicted + labelled - hit)))}

    return MeanIou()


def measure(way: str, folder: Path, num_labels: int) -> dict[str, float]:
    """Run one way in this process, after a warm-up on small maps."""
    torch.set_num_threads(1)
    run = {"ours": ours, "published": published}[way]
    run(Ready(folder / "small"), stored(folder / "small"), num_labels)
    batches, model = list(stored(folder)), Ready(folder)
    CLEAR_REFS.write_text("5")  # the peak starts again from what is held now: importing took more for a moment
    before, began = peak_mb(), time.perf_counter()
    with torch.inference_mode():
        score = run(model, iter(batches), num_labels)
    seconds = time.perf_counter() - began - model.seconds
    return {"seconds": seconds, "mb": peak_mb() - before, "mean_iou": score}


def peak_mb() -> float:
    """Give the most memory this process has held."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def stored(folder: Path) -> Iterator[Batch]:
    """Read labels from the disk; images do not matter any more."""
    for path in sorted(folder.glob("labels-*.npy")):
        labels = torch.from_numpy(np.load(path))
        ids = tuple(f"{path.stem}-{index}" for index in range(len(labels)))
        yield Batch(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels, ids)


def scenes(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Read or make up images and labels of 11 classes."""
    if folder is not None:
        paths = sorted((folder / "images" / "test").iterdir())
        paths = [paths[place] for place in np.linspace(0, len(paths) - 1, IMAGES).round().astype(int)]
        masks = [folder / "masks" / "test" / f"{path.stem}.png" for path in paths]
        return (np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]),
                np.stack([np.asarray(Image.open(path)) for path in masks]))  # fmt: skip
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 11, (IMAGES, 9, 12))
    labels = coarse.repeat(SIZE[0] // 9, 1).repeat(SIZE[1] // 12, 2).astype(np.uint8)
    noise = rng.integers(0, 32, (*labels.shape, 3))
    return (labels[..., None] * 20 + noise).astype(np.uint8), labels


def logits_of(kind: str, images: np.ndarray, labels: np.ndarray, num_labels: int, model: nn.Module) -> Tensor:
    """Make the logits of one batch, at a quarter of its size."""
    if kind == "SegFormer-B0":
        with torch.inference_mode():
            logits: Tensor = model(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
        return logits
    shape = (len(labels), num_labels, labels.shape[1] // 4, labels.shape[2] // 4)
    noise = torch.randn(shape)
    if kind == "noise":
        return noise
    known = torch.from_numpy(np.where(labels == 255, 0, labels)[:, 2::4, 2::4].astype(np.int64))
    hot = F.avg_pool2d(F.one_hot(known, num_labels).permute(0, 3, 1, 2).float(), 3, 1, 1)
    return 8 * hot + F.interpolate(noise[:, :, ::4, ::4], size=shape[2:], mode="bilinear") + 0.3 * noise


def prepare(folder: Path, kind: str, num_labels: int, images: np.ndarray, labels: np.ndarray) -> None:
    """Write logits and labels of every batch, and a small batch for the warm-up."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from hfseg.models import Segmenter
    from hfseg.models.pixels import Pixels

    torch.manual_seed(0)
    config = SegformerConfig(num_labels=num_labels)  # the defaults are B0's
    model = Segmenter(SegformerForSemanticSegmentation(config), Pixels()).eval()
    (folder / "small").mkdir()
    for start in range(0, len(images), BATCH):
        pixels, target = images[start : start + BATCH], labels[start : start + BATCH]
        logits = logits_of(kind, pixels, target, num_labels, model).numpy()
        np.save(folder / f"logits-{start:03d}.npy", logits)
        np.save(folder / f"labels-{start:03d}.npy", target)
    np.save(folder / "small" / "logits-0.npy", logits[:1, :, :8, :8])
    np.save(folder / "small" / "labels-0.npy", target[:1, :32, :32])


def compare(kind: str, num_labels: int, images: np.ndarray, labels: np.ndarray, runs: int) -> None:
    """Print both ways and their ratios."""
    found: dict[str, list[dict[str, float]]] = {"ours": [], "published": []}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), kind, num_labels, images, labels)
        for way in [*found] * runs:
            command = [sys.executable, __file__, "--way", way, "--stored", name, "--num-labels", str(num_labels)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    us, them = (min(found[way], key=lambda run: run["seconds"]) for way in ("ours", "published"))
    assert abs(us["mean_iou"] - them["mean_iou"]) < 1e-6, (us, them)
    print(
        f"{num_labels:3d} classes, {kind}: {1000 * us['seconds'] / len(images):5.1f} ms an image and {us['mb']:4.0f} MB, "
        f"published way {1000 * them['seconds'] / len(images):5.1f} ms and {them['mb']:4.0f} MB: "
        f"{them['seconds'] / us['seconds']:4.1f} times faster, {them['mb'] / us['mb']:4.1f} times less memory"
    )


def main() -> None:
    """Print every comparison and the machine; with `--way`, one way as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=["ours", "published"])
    parser.add_argument("--stored", type=Path)
    parser.add_argument("--num-labels", type=int)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.stored, options.num_labels)))
        return
    images, labels = scenes(options.folder)
    for num_labels in (11, 150):
        for kind in ("SegFormer-B0", "labels and noise", "noise"):
            compare(kind, num_labels, images, labels, options.runs)
    versions = {name: sys.modules[name].__version__ for name in ("torch", "numpy", "transformers")}
    print(
        f"{len(images)} images of {SIZE[0]} x {SIZE[1]}, batches of {BATCH}, 1 thread of {os.cpu_count()} cores, "
        f"{platform.machine()}, python {platform.python_version()}, {versions}; targets: 5 times, 4 times"
    )


if __name__ == "__main__":
    main()
