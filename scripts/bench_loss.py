"""Time and memory of cross entropy over 150 classes at 4 x 512 x 512: in strips, and as resize plus torch's own.

Each way runs in a process of its own, because peak memory is that of a process.
"""

import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from hfseg.logits import resize_logits
from hfseg.losses.cross_entropy import cross_entropy

SHAPE, SIZE = (4, 150, 128, 128), (512, 512)


def measure(way: str, threads: int) -> None:
    """Print the median time of forward and backward in ms, and the memory it adds in MB."""
    torch.set_num_threads(threads)
    logits = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(0, SHAPE[1], (SHAPE[0], *SIZE), dtype=torch.uint8)
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(6):
        logits.grad, began = None, time.perf_counter()
        if way == "strips":
            loss = cross_entropy(logits, labels, ignore_index=255)
        else:
            loss = F.cross_entropy(resize_logits(logits, SIZE), labels.long(), ignore_index=255)
        loss.backward()
        times.append(1000 * (time.perf_counter() - began))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(statistics.median(times[1:]), added)


def main() -> None:
    """Print both ways side by side on one and on two threads."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    for threads in (1, 2):
        found = {}
        for way in ("strips", "plain"):
            done = subprocess.run(
                [sys.executable, __file__, way, str(threads)], capture_output=True, text=True, check=True
            )
            found[way] = [float(value) for value in done.stdout.split()]
        (ours, our_mb), (plain, plain_mb) = found["strips"], found["plain"]
        print(f"{threads} threads: strips {ours:.0f} ms +{our_mb:.0f} MB, plain {plain:.0f} ms +{plain_mb:.0f} MB: "
              f"{plain / ours:.2f} times as fast, {plain_mb / our_mb:.1f} times leaner")  # fmt: skip
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}")


if __name__ == "__main__":
    main()
