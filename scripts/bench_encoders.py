"""Fine-tune several encoders by one recipe on CamVid and print one table: test mIoU, speed, memory.

Every row is one `hfseg finetune` with the same images, size, optimizer and epochs, scored by `hfseg evaluate` on the test
part at its native size. Needs CamVid as a folder (`images/{train,val,test}`, `masks/...`) and, for the pretrained rows,
the ImageNet classifier MobileNetV2; neither comes with the package.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

HFSEG = str(Path(sys.executable).with_name("hfseg"))
SIZE = (240, 320)
THIN = ["--set", "model.hidden_size=64"]
UPERNET = ["--decoder", "upernet", *THIN, "--set", "model.auxiliary=false"]
FUSION = ["--decoder", "fusion", *THIN]
SMALL_DINAT = "{embed_dim: 32, depths: [2, 2, 5, 3], num_heads: [1, 2, 4, 8]}"


def suites(weights: str) -> dict[str, dict[str, list[str]]]:
    """Name the rows of each suite, with the options that make them differ."""
    mobilenet = ["--backbone", "mobilenet-v2", "--pretrained"]
    dinat = ["--backbone", "dinat", "--set", f"model.overrides={SMALL_DINAT}", "--set", "model.dilations=auto"]
    return {
        "decoders": {
            "fusion, MobileNetV2, ImageNet": [*FUSION, *mobilenet, weights],
            "fusion, MobileNetV2, random weights": [*FUSION, *mobilenet, "none"],
            "UPerNet, MobileNetV2, ImageNet": [*UPERNET, *mobilenet, weights],
            "UPerNet, MobileNetV2, random weights": [*UPERNET, *mobilenet, "none"],
        },
        "encoders": {
            "UPerNet, small DiNAT, random weights": [*UPERNET, *dinat, "--pretrained", "none"],
            "UPerNet, ConvNeXt V2 atto, random weights": [
                *UPERNET, "--backbone", "convnextv2-atto", "--pretrained", "none",
            ],
        },
    }  # fmt: skip


def measure(options: list[str], data: Path, output: Path, *, epochs: float, lr: float) -> dict[str, float]:
    """Train and score one row; memory is the largest resident size of the training process, workers left out."""
    crop = f"{SIZE[0]}x{SIZE[1]}"
    command = [
        *(HFSEG, "finetune", "--dataset", "folder", "--data-dir", str(data), *options, "--epochs", str(epochs)),
        *("--batch-size", "8", "--lr", str(lr), "--short-side", str(SIZE[0]), "--crop-size", crop, "--workers", "1"),
        *("--set", "samples=2", "--set", "optim.warmup_steps=50", "--output", str(output)),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with {process.returncode}")
    seconds = time.perf_counter() - began
    done = subprocess.run([HFSEG, "evaluate", output, "--split", "test", "--json"], check=True, capture_output=True)
    log = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    table = json.loads((output / "parameters.json").read_text())
    return {
        "parameters": sum(row["total"] for row in table) / 1e6,
        "mean_iou": 100 * json.loads(done.stdout)["mean_iou"],
        "images_per_s": statistics.median(line["images_per_s"] for line in log if line["event"] == "train"),
        "memory_mb": usage.ru_maxrss / 1024,
        "seconds": seconds,
    }


def main() -> None:
    """Run a suite, one row after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=suites(""))
    parser.add_argument("data", type=Path, help="CamVid folder")
    parser.add_argument("--weights", default="none", help="folder of the ImageNet classifier MobileNetV2")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rows", default="", help="only rows whose name holds this")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-encoders"))
    options = parser.parse_args()
    print(f"CamVid, {options.epochs:g} epochs at {SIZE[1]} x {SIZE[0]}, batch 8, AdamW {options.lr:g}, one seed")
    print(
        "\n| model | M parameters | test mIoU, % | images/s | peak MB | whole command, s |\n|---|---|---|---|---|---|"
    )
    for number, (name, row) in enumerate(suites(options.weights)[options.suite].items()):
        if options.rows not in name:
            continue
        found = measure(
            row, options.data, options.output / f"{options.suite}-{number}", epochs=options.epochs, lr=options.lr
        )
        print(f"| {name} | {found['parameters']:.2f} | {found['mean_iou']:.2f} | {found['images_per_s']:.1f} | "
              f"{found['memory_mb']:.0f} | {found['seconds']:.0f} |", flush=True)  # fmt: skip
    print(
        f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
