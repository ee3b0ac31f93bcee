"""Time `hfseg --help` against importing torch, both in fresh processes; medians of nine."""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Run a command nine times after one that warms the file cache, and give the median wall time."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Print both times and their ratio."""
    hfseg = seconds([str(Path(sys.executable).with_name("hfseg")), "--help"])
    torch = seconds([sys.executable, "-c", "import torch"])
    print(f"hfseg --help {hfseg:.3f} s, import torch {torch:.3f} s: {hfseg / torch:.2f} of the time (target < 0.25)")
    print(f"python {platform.python_version()}, {platform.machine()}, {platform.system()}")


if __name__ == "__main__":
    main()
