"""What this machine can compute with, each fact with its remedy: devices, precisions, memory, disk and threads.

Torch is imported by the facts that need it, so that the others can be told where it is missing.
"""

import os
import platform
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warning", "broken"]
GIB = 1024**3
FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""CPU flags of x86 and ARM without which bfloat16 is emulated."""


@dataclass(frozen=True)
class Fact:
    """One thing about the machine; `broken` means that hfseg cannot work."""

    name: str
    value: str
    status: Status = "ok"
    hint: str | None = None


SAMPLE_EVERY_S = 0.005


@dataclass
class MemoryUse:
    """How much memory something took, in bytes."""

    how: str
    """What was measured, and by what."""
    limit: int
    """What there is for this process."""
    before: int
    """Taken before it began."""
    peak: int
    """The most that was taken at once, with what was taken before."""


@contextmanager
def memory_use(device: str) -> Iterator[MemoryUse]:
    """Measure the peak of a block, which is there when the block ends.

    On a CUDA `device` it is what torch has allocated there; elsewhere it is the memory of this process, looked at every
    5 ms, without that of loader workers.
    """
    with _allocated(device) if device.startswith("cuda") else _resident() as use:
        yield use


@contextmanager
def _allocated(device: str) -> Iterator[MemoryUse]:
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    free, _ = torch.cuda.mem_get_info(device)
    before = torch.cuda.memory_allocated(device)
    use = MemoryUse("allocated by torch on the GPU", free + torch.cuda.memory_reserved(device), before, before)
    try:
        yield use
    finally:
        use.peak = torch.cuda.max_memory_allocated(device)


@contextmanager
def _resident() -> Iterator[MemoryUse]:
    import psutil  # type: ignore[import-untyped]  # Accelerate depends on it

    process, ended = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    limit = psutil.virtual_memory().available + before
    use = MemoryUse("resident memory of this process", limit, before, before)

    def sample() -> None:
        while not ended.wait(SAMPLE_EVERY_S):
            use.peak = max(use.peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield use
    finally:
        ended.set()
        sampler.join()


def torch_build() -> Fact:
    """What torch was built for, and whether there is a GPU that it cannot see."""
    import torch

    kinds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built = next((f"{kind} {found}" for kind, found in kinds.items() if found), "the CPU")
    value = f"{torch.__version__}, built for {built}"
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        return Fact(
            "torch build",
            f"{value}: there is an NVIDIA driver and torch sees no GPU",
            "warning",
            "install a torch of the driver's CUDA version: https://pytorch.org/get-started/locally",
        )
    return Fact("torch build", value)


def devices() -> Iterator[Fact]:
    """Every accelerator with its memory and fast precisions, and the CPU."""
    import torch

    for index in range(torch.cuda.device_count()):
        yield _gpu(index)
    if torch.backends.mps.is_available():
        yield Fact("device mps", "Apple GPU: float32 and fp16; operators it lacks run on the CPU")
    yield cpu(cpu_flags(), torch.backends.cpu.get_cpu_capability())


def _gpu(index: int) -> Fact:
    import torch

    has = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    known = {
        "fp16": has.major >= 7,
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "TF32": has.major >= 8 and torch.version.hip is None,
        "flash attention": torch.backends.cuda.is_flash_attention_available() and has.major >= 8,
    }
    fast = ", ".join(name for name, is_there in known.items() if is_there) or "float32 only"
    lacking = ", ".join(name for name, is_there in known.items() if not is_there)
    memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    without = f"; without {lacking}" if lacking else ""
    return Fact(f"device cuda:{index}", f"{has.name}, {memory}; fast: {fast}{without}")


def cpu(flags: frozenset[str], capability: str) -> Fact:
    """The CPU, the vector width torch uses, and whether bfloat16 pays there."""
    fast = sorted(flags & FAST_BF16)
    bf16 = f"bf16 by {', '.join(fast)}" if fast else "bf16 is emulated, many times slower than float32"
    return Fact("device cpu", f"{platform.processor() or platform.machine()}, {capability}; {bf16}; fp16 is refused")


def cpu_flags() -> frozenset[str]:
    """What the kernel says the CPU can do; nothing where there is no /proc."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    listed = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(listed, "").split())


def room(name: str, path: Path, hint: str, *, least_gib: float = 5.0) -> Fact:
    """Free space where a folder is or would be."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / GIB
    value = f"{path}: {free:.1f} GiB free"
    if not os.access(there, os.W_OK):
        return Fact(name, f"{value}, cannot be written", "warning", hint)
    return Fact(name, value) if free >= least_gib else Fact(name, value, "warning", hint)


def memory(*, least_gib: float = 4.0) -> Fact:
    """Memory that is free for a run."""
    import psutil

    now = psutil.virtual_memory()
    value = f"{now.available / GIB:.1f} of {now.total / GIB:.1f} GiB free"
    if now.available / GIB < least_gib:
        hint = "make `loader.batch_size`, `augment.crop_size` or `loader.workers` smaller"
        return Fact("memory", value, "warning", hint)
    return Fact("memory", value)


def threads(environ: Mapping[str, str]) -> Fact:
    """Threads that torch computes with, against the cores it may use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used, processes = torch.get_num_threads(), int(environ.get("WORLD_SIZE", "1"))
    asked = f", OMP_NUM_THREADS={environ['OMP_NUM_THREADS']}" if "OMP_NUM_THREADS" in environ else ""
    value = f"{used} of torch in each of {processes} processes, on {cores} cores{asked}"
    if used * processes > cores:
        return Fact("threads", value, "warning", f"set OMP_NUM_THREADS={max(1, cores // processes)}")
    return Fact("threads", value)
