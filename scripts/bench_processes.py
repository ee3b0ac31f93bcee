"""What several processes cost, and what checkpoints and logs cost, on the demo images with SegFormer-B0.

The first table compares two processes with one image each and one process with two, on the same two cores. The second
adds up the time that one run spends in checkpoints, records, and the norm and the guard of every step, and sets beside
it the time to write and sync as many bytes in one go.

    python scripts/bench_processes.py --steps 40
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hfseg.engine import output
from hfseg.engine.guard import Guard
from hfseg.engine.tracking import RunLog
from hfseg.engine.trainable import Trainable
from hfseg.recipes import finetune
from hfseg.recipes.run import FinetuneConfig

BIN = Path(sys.executable).parent
CROP = 256


def images_per_s(processes: int, steps: int, folder: Path, cores: str) -> float:
    """Train with two images a step and give the median speed of the second half of the records."""
    command = [
        *(
            "taskset",
            "-c",
            cores,
            BIN / "torchrun",
            "--nproc_per_node",
            processes,
            "--master_port",
            29671,
            "-m",
            "hfseg",
        ),
        *("finetune", "--steps", steps, "--batch-size", 2 // processes, "--crop-size", CROP, "--workers", 0),
        *("--set", f"train.eval_every={steps}", "--set", "train.log_every=5", "--set", "samples=0", "--output", folder),
    ]
    threads = str(2 // processes)
    subprocess.run(
        [str(word) for word in command],
        check=True,
        capture_output=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": threads},
    )
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    speeds = [line["images_per_s"] for line in lines if line["event"] == "train"]
    return statistics.median(speeds[len(speeds) // 2 :])


def timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    """Add the seconds of each call to `spent`."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return call


def costs(steps: int, folder: Path) -> dict[str, float]:
    """Run in this process at the default rhythm and give the seconds of each kind of work, and of all of it."""
    spent: dict[str, float] = {}
    for owner, method, name in (
        (output, "save_checkpoint", "checkpoints"),
        (RunLog, "write", "records"),
        (Trainable, "_clipped", "norm of the gradients"),
        (Guard, "begin", "guard"),
        (Guard, "watched", "guard"),
        (Guard, "settle", "guard"),
        (output, "replace_folder", "model folders"),
    ):
        setattr(owner, method, timed(getattr(owner, method), spent, name))
    config = FinetuneConfig.load(
        flags={
            "output": str(folder), "train.steps": steps, "loader.batch_size": 2, "augment.crop_size": CROP,
            "model.pretrained": "none", "loader.workers": 0, "samples": 0, "runtime.cpu": True,
        }
    )  # fmt: skip
    began = time.perf_counter()
    finetune.run(config)
    return {**spent, "all": time.perf_counter() - began}


def plain_write_s(size: int, folder: Path) -> float:
    """Write and sync a file of `size` bytes; give the median seconds of three."""
    seconds = []
    for number in range(3):
        block = os.urandom(size)
        began = time.perf_counter()
        with (folder / f"{number}").open("wb") as file:
            file.write(block)
            os.fsync(file.fileno())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    """Run both and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, taken in turns")
    parser.add_argument("--cores", default="0,1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for repeat in range(options.repeats):
            for processes, found in speeds.items():
                run = folder / f"run-{processes}-{repeat}"
                found.append(images_per_s(processes, options.steps, run, options.cores))
        for processes, found in speeds.items():
            each = ", ".join(f"{speed:.2f}" for speed in found)
            print(f"{processes} processes x batch {2 // processes}: {statistics.median(found):.2f} images/s ({each})")
        ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        spent = costs(options.steps, folder / "costs")
        newest = max((folder / "costs" / "checkpoints").iterdir())
        size = sum(path.stat().st_size for path in newest.iterdir())
        count = 1 + (options.steps - 1) // 24
        plain = count * plain_write_s(size, folder)
        for kind, seconds in spent.items():
            print(f"{kind}: {seconds:.3f} s, {100 * seconds / spent['all']:.2f} %")
        print(f"{count} checkpoints of {size / 2**20:.1f} MiB; as many bytes written and synced: {plain:.3f} s; "
              f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
