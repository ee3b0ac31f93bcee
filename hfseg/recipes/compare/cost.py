"""What the members of a comparison cost: all models on one device, shown the same image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from hfseg.data import model_input
from hfseg.engine.cost import (
    CPU_MEMORY_METHOD,
    CUDA_MEMORY_METHOD,
    MACS_METHOD,
    Call,
    CostConfig,
    Latency,
    count_macs,
    latencies,
    peak_bytes,
)
from hfseg.engine.energy import METHOD as ENERGY_METHOD
from hfseg.engine.energy import counter_of, joules_per_call
from hfseg.engine.inference import ProtocolConfig, shown_once
from hfseg.engine.memory import out_of_memory_told
from hfseg.engine.runtime import Runtime
from hfseg.errors import HfsegError
from hfseg.models import Segmenter
from hfseg.models.ops import freely_chosen
from hfseg.models.ops.cost import FORMULAS
from hfseg.recipes.compare.opened import Opened
from hfseg.recipes.console import progress
from hfseg.viz.numbers import parameter_totals
from hfseg.viz.run import read_run

MIB = 2**20
Failures = dict[str, str]
"""What went wrong, by member."""
Models = Mapping[str, Callable[[], Segmenter]]
"""What opens the model of each member."""


@dataclass(frozen=True)
class Measured:
    """What was measured of the members whose models could be opened and run."""

    costs: dict[str, dict[str, Any]]
    conditions: dict[str, Any]
    opened: dict[str, Opened]
    failures: Failures


def measure(
    models: Models,
    protocol: ProtocolConfig,
    image: UInt8[np.ndarray, "h w 3"],
    config: CostConfig,
    runtime: Runtime,
) -> Measured:
    """Measure every model on an image as it is evaluated, and on the next frame of a video of such images."""
    costs: dict[str, dict[str, Any]] = {}
    opened: dict[str, Opened] = {}
    failures: Failures = {}
    with progress(f"counting operations and memory of {len(models)} models") as show:
        for name, open_one in models.items():
            show(len(opened) + len(failures), len(models))
            with _kept_apart(failures, name):
                model = Opened(open_one(), protocol)
                with out_of_memory_told(model.segmenter, runtime.device), freely_chosen():
                    costs[name] = {"memory_frames": model.memory_frames, **_counted(model, image)}
                    model.segmenter.to(runtime.device)
                    call = model.image_call(image, runtime.device, count=config.batch_size)
                    memory = _weight_bytes(model.segmenter) + peak_bytes(call, runtime.device)
                costs[name]["memory_mb"] = memory / MIB
                opened[name] = model
    _add_times(opened, costs, image, config, runtime.device)
    return Measured(costs, _conditions(config, image, protocol, opened, runtime), opened, failures)


def noise(size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Draw an image of a height and width, the same at every call."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _counted(model: Opened, image: UInt8[np.ndarray, "h w 3"]) -> dict[str, Any]:
    """Count multiply-accumulates, on the CPU."""
    cpu = torch.device("cpu")
    seen = count_macs(model.image_call(image, cpu), formulas=FORMULAS)
    frame = count_macs(model.frame_call(image, cpu), formulas=FORMULAS) if model.has_own_frames else seen
    uncounted = sorted({*seen.uncounted, *frame.uncounted})
    return {"macs": seen.total, "frame_macs": frame.total, "uncounted": uncounted}


def _add_times(
    opened: Mapping[str, Opened],
    costs: dict[str, dict[str, Any]],
    image: UInt8[np.ndarray, "h w 3"],
    config: CostConfig,
    device: torch.device,
) -> None:
    """Time all predictions by turns, and measure the energy of each where the device counts it."""
    if not opened:
        return
    count, counter = config.batch_size, counter_of(device)
    calls = {name: model.image_call(image, device, count=count) for name, model in opened.items()}
    own = {name: m.frame_call(image, device, count=count) for name, m in opened.items() if m.has_own_frames}
    images = _timed("predictions", calls, config, device)
    frames = images | (_timed("next frames of a video", own, config, device) if own else {})
    for name, call in calls.items():
        costs[name] |= {
            "latency": images[name].to_dict(),
            "frame_latency": frames[name].to_dict(),
            "frames_per_s": 1000 * count / frames[name].median_ms,
        }
        if counter is not None:
            joules = joules_per_call(_waiting(call, device), counter, seconds=config.energy_s)
            costs[name]["joules"] = joules / count


def _timed(what: str, calls: Mapping[str, Call], config: CostConfig, device: torch.device) -> dict[str, Latency]:
    with progress(f"timing {len(calls)} {what} by turns, {config.warm_up} + {config.rounds} rounds") as show:
        return latencies(calls, config, device, show=show)


def training_facts(folder: Path) -> dict[str, Any]:
    """Read from a run what its training took; None where it was not recorded."""
    run = read_run(folder)
    speeds = sorted(record["images_per_s"] for record in run.train if record.get("images_per_s"))
    seconds = [record["seconds"] for record in run.train if record.get("seconds")]
    peaks = [record["peak_memory_mb"] for record in run.train if record.get("peak_memory_mb")]
    parameters, trainable = parameter_totals(run.parameters) if run.parameters else (None, None)
    return {
        "images_per_s": speeds[len(speeds) // 2] if speeds else None,
        "train_seconds": sum(seconds) if seconds else None,
        "train_memory_mb": max(peaks, default=None),
        "parameters": parameters,
        "trainable": trainable,
        "device": run.env.get("device"),
    }


@contextmanager
def _kept_apart(failures: Failures, name: str) -> Iterator[None]:
    """Note what goes wrong with one member, and go on with the others."""
    try:
        yield
    except HfsegError as error:
        failures[name] = error.message


def _weight_bytes(segmenter: Segmenter) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*segmenter.parameters(), *segmenter.buffers()))


def _waiting(call: Call, device: torch.device) -> Call:
    def wait() -> None:
        call()
        torch.cuda.synchronize(device)

    return wait


def _conditions(
    config: CostConfig,
    image: UInt8[np.ndarray, "h w 3"],
    protocol: ProtocolConfig,
    opened: Mapping[str, Opened],
    runtime: Runtime,
) -> dict[str, Any]:
    """Say under which conditions costs were measured."""
    device = runtime.device
    on_cuda = device.type == "cuda"
    threads = torch.get_num_threads()
    named = torch.cuda.get_device_name(device) if on_cuda else f"{device.type}, {threads} thread{'s' * (threads > 1)}"
    dtypes = sorted({str(next(m.segmenter.parameters()).dtype).removeprefix("torch.") for m in opened.values()})
    return {
        "device": named,
        "dtype": ", ".join(dtypes),
        "batch_size": config.batch_size,
        "input": list(model_input(image, short_side=protocol.loader_short_side).shape[:2]),
        "output": list(image.shape[:2]),
        "frame_protocol": shown_once(protocol).to_text(),
        "warm_up": config.warm_up,
        "rounds": config.rounds,
        "macs_method": MACS_METHOD,
        "memory_method": CUDA_MEMORY_METHOD if on_cuda else CPU_MEMORY_METHOD,
        "energy_method": None if counter_of(device) is None else ENERGY_METHOD,
    }
