"""Time and peak memory of the strip-wise cross entropy against resizing all logits: `python scripts/bench_loss.py`.

Forward and backward at 4 x 150 x 128 x 128 logits and 512 x 512 labels. Each way runs in a process of its own, so that
its peak memory can be read; times are the best of several runs, because another process can only make them longer.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from hfseg.logits import resize_logits
from hfseg.losses.cross_entropy import cross_entropy

BATCH, CLASSES, STRIDE, SIZE, IGNORED = 4, 150, 4, 512, 255


def measure(way: str, threads: int, runs: int) -> dict[str, float]:
    """Run one way in this process; give the best time, the memory it added and the loss."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    logits = torch.randn(BATCH, CLASSES, SIZE // STRIDE, SIZE // STRIDE, requires_grad=True)
    labels = torch.randint(0, CLASSES, (BATCH, SIZE, SIZE), dtype=torch.uint8)
    before, times = _peak_mb(), []
    for _ in range(runs):
        logits.grad, began = None, time.perf_counter()
        if way == "strips":
            loss = cross_entropy(logits, labels, ignore_index=IGNORED)
        else:
            loss = F.cross_entropy(resize_logits(logits, (SIZE, SIZE)), labels.long(), ignore_index=IGNORED)
        loss.backward()
        times.append(time.perf_counter() - began)
    return {"seconds": min(times), "mb": _peak_mb() - before, "loss": loss.item()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _apart(way: str, threads: int, runs: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--threads", str(threads), "--runs", str(runs)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Print both ways, their ratio and the machine; with `--way`, one way as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["strips", "plain"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.threads or 1, options.runs)))
        return
    for threads in [options.threads] if options.threads else [1, 2]:
        strips, plain = (_apart(way, threads, options.runs) for way in ("strips", "plain"))
        print(
            f"cross entropy, {threads} thread(s): strips {strips['seconds']:.2f} s and {strips['mb']:.0f} MB, "
            f"plain {plain['seconds']:.2f} s and {plain['mb']:.0f} MB: {plain['seconds'] / strips['seconds']:.2f} times "
            f"the speed, {plain['mb'] / strips['mb']:.1f} times less memory; losses {strips['loss']:.6f} {plain['loss']:.6f}"
        )
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
