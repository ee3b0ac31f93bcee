"""Energy of a computation, where the device counts it: NVIDIA GPUs from Volta on, by NVML."""

import time
from collections.abc import Callable

import torch

METHOD = "NVML's energy counter of the whole GPU, over repeated predictions, idle power included"


def counter_of(device: torch.device) -> Callable[[], float] | None:
    """Give a function that reads the joules that a device has used since some moment; None where nothing counts them.

    `pynvml` (the extra `energy`) reads them; without it there is no counter.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml  # type: ignore[import-not-found]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # an older GPU, or a part of one
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def joules_per_call(call: Callable[[], object], counter: Callable[[], float], *, seconds: float) -> float:
    """Repeat a call for some seconds and divide what was used by the number of calls.

    The counter moves in steps of some tens of milliseconds, which long runs make small. `call` waits for its result.
    """
    before, began, calls = counter(), time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < seconds:
        call()
        calls += 1
    return (counter() - before) / calls
