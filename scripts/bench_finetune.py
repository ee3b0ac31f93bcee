"""Fine-tune a pretrained model on CamVid by `hfseg finetune` and by a plain script with the same settings.

Both start from the same checkpoint, see the same images at the same size for five epochs with the same optimizer, and
are scored on the test part at its native size. Needs CamVid as a folder (`images/{train,val,test}`, `masks/...`) and
the checkpoint; neither comes with the package.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation

EPOCHS, BATCH, SIZE, LR, LABELS = 5, 8, (240, 320), 1e-3, 11


def hfseg(data: Path, model: Path, lr: float, output: Path) -> tuple[float, float]:
    """Give test mIoU and the wall time of the training command, start and validation included."""
    command = [str(Path(sys.executable).with_name("hfseg"))]
    began = time.perf_counter()
    subprocess.run(
        [*command, "finetune", "--dataset", "folder", "--data-dir", data, "--model", model, "--epochs", str(EPOCHS),
         "--batch-size", str(BATCH), "--lr", str(lr), "--short-side", str(SIZE[0]), "--crop-size", f"{SIZE[0]}x{SIZE[1]}",
         "--workers", "1", "--set", "samples=0", "--set", "runtime.channels_last=true", "--output", output],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    done = subprocess.run([*command, "evaluate", output, "--split", "test", "--json"], check=True, capture_output=True)
    return json.loads(done.stdout)["mean_iou"], seconds


def plain(data: Path, model: Path, lr: float) -> tuple[float, float]:
    """Do the same in thirty lines: resize, flip, AdamW, poly."""
    torch.manual_seed(0)
    began = time.perf_counter()
    net = AutoModelForSemanticSegmentation.from_pretrained(model, num_labels=LABELS, ignore_mismatched_sizes=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    paths = sorted((data / "images" / "train").iterdir())
    steps, step = EPOCHS * (len(paths) // BATCH), 0
    for _ in range(EPOCHS):
        order = torch.randperm(len(paths)).tolist()
        for start in range(0, len(paths) - BATCH + 1, BATCH):
            pairs = [read(paths[index], SIZE) for index in order[start : start + BATCH]]
            images, labels = torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])
            if torch.rand(()) < 0.5:
                images, labels = images.flip(-1), labels.flip(-1)
            logits = F.interpolate(net.train()(images).logits, size=SIZE, mode="bilinear", align_corners=False)
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.zero_grad()
            F.cross_entropy(logits, labels, ignore_index=255).backward()
            optimizer.step()
            step += 1
    seconds = time.perf_counter() - began
    return score(net.eval(), data), seconds


def read(path: Path, size: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Read an image at the training size in -1..1, and its labels at `size`, or as they are."""
    mask = Image.open(path.parents[2] / "masks" / path.parent.name / f"{path.stem}.png")
    image = Image.open(path).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    if size is not None:
        mask = mask.resize(size[::-1], Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
    return pixels, torch.from_numpy(np.asarray(mask).copy()).long()


@torch.inference_mode()
def score(net: torch.nn.Module, data: Path) -> float:
    """Give the mean IoU on the test part at its native size."""
    counts = torch.zeros(LABELS, LABELS)
    for path in sorted((data / "images" / "test").iterdir()):
        image, labels = read(path, None)
        logits = F.interpolate(net(image[None]).logits, size=labels.shape, mode="bilinear", align_corners=False)
        kept = labels != 255
        counts += torch.bincount(labels[kept] * LABELS + logits.argmax(1)[0][kept], minlength=LABELS**2).view(
            LABELS, -1
        )
    return float((counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())).nanmean())


def main() -> None:
    """Run both, one after the other, and print scores, times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="CamVid folder")
    parser.add_argument("model", type=Path, help="pretrained segmentation model")
    parser.add_argument("--lr", type=float, default=LR)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, our_seconds = hfseg(options.data, options.model, options.lr, Path(folder) / "run")
    theirs, their_seconds = plain(options.data, options.model, options.lr)
    print(f"{EPOCHS} epochs at {SIZE[1]} x {SIZE[0]}, batch {BATCH}, AdamW {options.lr:g}, poly; CamVid test mIoU")
    print(f"hfseg finetune  {ours:.4f}  {our_seconds:.0f} s (start, data check and {EPOCHS} validations included)")
    print(f"plain script    {theirs:.4f}  {their_seconds:.0f} s (training only)")
    print(f"time ratio {our_seconds / their_seconds:.2f}; {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"python {platform.python_version()}, {platform.machine()}")  # fmt: skip


if __name__ == "__main__":
    main()
