"""What a prediction costs: multiply-accumulates, time, and memory, each with the method by which it was found."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from hfseg.config import Config

Call = Callable[[], object]
Formulas = Mapping[Any, Callable[..., int]]
"""Operations of an operator by the shapes of its tensors, as `torch.utils.flop_counter` takes them."""

MACS_METHOD = (
    "multiply-accumulates: half the operations that torch.utils.flop_counter counts in convolutions, matrix products "
    "and attention; norms, activations, softmax and resizing count nothing"
)
CPU_MEMORY_METHOD = "weights, and the most that torch allocated beside them, by torch.profiler; not the process"
CUDA_MEMORY_METHOD = "weights, and the most that torch allocated beside them on the GPU"
_PRODUCTS = re.compile(r"attention|conv|mm|mv$|dot$|(?<!bi)(?<!tri)linear|lstm|gru")
"""What operators are called that multiply and accumulate."""


class CostConfig(Config):
    """How time is measured: all members in turn, round after round, so that a busy minute meets every one of them."""

    batch_size: PositiveInt = 1
    """Images that are predicted at once."""
    image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Pixels of the image that is shown, of noise: one number for a square, or [height, width]. Where it is not given,
    the first image of the data is shown, or noise of the training crop's size where costs alone are measured."""
    warm_up: NonNegativeInt = 3
    """Rounds that are not counted."""
    rounds: PositiveInt = 20
    """Rounds that are counted: the median and the quartiles are of as many predictions."""
    energy_s: PositiveInt = 3
    """Seconds of predictions over which energy is measured, where the device has a counter."""

    @property
    def noise_size(self) -> tuple[int, int] | None:
        """Height and width of the image of noise, where one is asked for."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates, and the operators with products for which there is no formula."""

    total: int
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class Latency:
    """Time of a call in milliseconds: the median and the quartiles."""

    median_ms: float
    lower_ms: float
    upper_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        """Sum up measured times."""
        if len(seconds) == 1:
            return cls(*[1000 * seconds[0]] * 3)
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(1000 * median, 1000 * lower, 1000 * upper)

    def to_dict(self) -> dict[str, float]:
        """Give everything as JSON has it."""
        return asdict(self)


def count_macs(call: Call, *, formulas: Formulas) -> Macs:
    """Count what a call multiplies and accumulates; `formulas` are those of operators that torch does not know.

    On a GPU an operator may be computed in another way than on a CPU, with products that serve nothing: counts that
    are to be compared are taken on a CPU.
    """
    known = {**_FUSED, **formulas}
    with _Seen() as seen, FlopCounterMode(display=False, custom_mapping=dict(known)) as counter:
        call()
    return Macs(counter.get_total_flops() // 2, tuple(sorted(seen.products - {str(key) for key in known})))


def latencies(
    calls: Mapping[str, Call],
    config: CostConfig,
    device: torch.device,
    *,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Latency]:
    """Time calls by turns, each round beginning with another one; `show` is told of the rounds done, of how many."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(-config.warm_up, config.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = _timed(calls[name], device)
            if number >= 0:
                seconds[name].append(took)
        show(number + config.warm_up + 1, config.rounds + config.warm_up)
    return {name: Latency.of(times) for name, times in seconds.items()}


def peak_bytes(call: Call, device: torch.device) -> int:
    """Measure the most that torch allocated at once during a call, beside what there was before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    taken = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            taken += event.nbytes()
            most = max(most, taken)
    return most


def _timed(call: Call, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Seen(TorchDispatchMode):
    """Notes the operators with products that torch's counter has no formula for."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        is_own = func.namespace not in ("aten", "prim", "prims", "profiler")
        if packet not in flop_registry and (is_own or _PRODUCTS.search(str(packet).rpartition(".")[2])):
            self.products.add(str(packet))
        return func(*args, **(kwargs or {}))


def _fused_flops(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query_shape, key_shape, value_shape)
    return count


_FUSED: Formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops}
"""What torch's counter leaves out: without it, attention costs nothing on a CPU."""
