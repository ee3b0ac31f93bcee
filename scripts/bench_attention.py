"""Time and memory of every way to compute neighborhood attention, forward and backward.

On a CPU: float32, 2 x 2 heads x 128 x 128 x 32, kernel 7, one thread; and the maps of DiNAT-mini at a crop of 512. On a GPU:
bf16, 8 x 8 heads x 128 x 128 x 32, with attention over the whole map and the floor that the bus sets beside it. Every
way runs in a process of its own; ways take turns, and the best of the rounds counts.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hfseg.models.ops import WAYS, Case, choose, neighborhood_attention

KERNEL = 7
GLOBAL = "all to all"
CASES = {
    "cpu": [(2, 2, 128, 1), (2, 2, 128, 8)],
    "dinat-mini": [(2, 2, 128, 1), (2, 2, 128, 16), (2, 4, 64, 8), (2, 8, 32, 4), (2, 16, 16, 2)],
    "cuda": [(8, 8, 128, 1), (8, 8, 128, 4), (8, 8, 128, 8)],
}
"""Batch, heads, side of the map, dilation."""
BUS_BYTES_PER_S = 4.8e12
"""What an H200 moves at best; NVIDIA's data sheet."""


def measure(way: str, case: tuple[int, ...], device: str, *, table: bool) -> dict[str, float]:
    """Give milliseconds and the megabytes that came on top of the inputs, for one forward and backward pass."""
    batch, heads, side, dilation = case
    torch.set_num_threads(1)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    maps = [torch.randn(batch, heads, side, side, 32, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
    wide = 2 * KERNEL - 1
    rpb = torch.randn(heads, wide, wide, device=device, dtype=dtype).requires_grad_() if table else None

    def step() -> None:
        attend(way, maps, rpb, dilation).backward(gradient)
        for leaf in (*maps, rpb):
            if leaf is not None:
                leaf.grad = None

    gradient = torch.randn_like(maps[0])
    return _on_gpu(step) if device == "cuda" else _on_cpu(step)


def attend(way: str, maps: list[Tensor], rpb: Tensor | None, dilation: int) -> Tensor:
    """Attend by a way, or from every place to every place."""
    if way == GLOBAL:
        return scaled_dot_product_attention(*(each.flatten(2, 3) for each in maps)).unflatten(2, maps[0].shape[2:4])
    return neighborhood_attention(*maps, rpb=rpb, kernel_size=KERNEL, dilation=dilation, impl=way)


def _on_cpu(step: Callable[[], None]) -> dict[str, float]:
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    step()
    memory = _resident("VmHWM") - before
    times = []
    for _ in range(5):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {"ms": 1e3 * min(times), "mb": memory}


def _on_gpu(step: Callable[[], None]) -> dict[str, float]:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(20):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        step()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    return {"ms": sorted(times)[len(times) // 2], "mb": (torch.cuda.max_memory_allocated() - before) / 2**20}


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def in_own_process(way: str, case: tuple[int, ...], options: argparse.Namespace) -> dict[str, float] | str:
    """Run `measure` in a fresh process; the last line of its error where it cannot run."""
    command = [sys.executable, __file__, "--only", way, "--case", *map(str, case), "--device", options.device]
    command += [] if options.table else ["--no-table"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def floor_ms(case: tuple[int, ...]) -> float:
    """Time to move what must be moved in bf16: q, k, v, o forward; q, k, v, o, do and three gradients backward."""
    batch, heads, side, _ = case
    return 1e3 * 12 * batch * heads * side * side * 32 * 2 / BUS_BYTES_PER_S


def table(case: tuple[int, ...], options: argparse.Namespace) -> None:
    """Print one case: every way, with ratios to the gathering one."""
    batch, heads, side, dilation = case
    ways = [*WAYS, GLOBAL] if options.device == "cuda" else list(WAYS)
    best: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for way in ways:
            found = in_own_process(way, case, options)
            if isinstance(found, str):
                best[way] = {"ms": math.nan, "mb": math.nan}
                print(f"{way}: {found}", file=sys.stderr)
            elif way not in best or found["ms"] < best[way]["ms"]:
                best[way] = found
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    chosen = choose(Case(options.device, dtype, side, side, 32, KERNEL, dilation, options.table))
    print(f"\n{batch} x {heads} heads x {side} x {side} x 32, kernel {KERNEL}, dilation {dilation}; chosen: {chosen}")
    print("| way | ms | MB over inputs | times as fast as gather | times leaner |\n|---|---|---|---|---|")
    gather = best["gather"]
    for way, found in best.items():
        if not math.isnan(found["ms"]):
            print(f"| {way} | {found['ms']:.1f} | {found['mb']:.0f} | {gather['ms'] / found['ms']:.1f} | "
                  f"{gather['mb'] / max(found['mb'], 1):.1f} |")  # fmt: skip
    if options.device == "cuda":
        print(f"| floor by bytes moved | {floor_ms(case):.2f} | | | |")


def main() -> None:
    """Measure every case of the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cases", choices=CASES, help="which maps; default: those of the device")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-table", dest="table", action="store_false")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, tuple(options.case), options.device, table=options.table)))
        return
    for case in CASES[options.cases or options.device]:
        table(case, options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, 1 thread"
    print(f"\n{name}; torch {torch.__version__}, python {platform.python_version()}; position table: {options.table}")


if __name__ == "__main__":
    main()
