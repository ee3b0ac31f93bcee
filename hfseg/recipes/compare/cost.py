"""What the members of a comparison cost and see: all models on one device, shown the same images."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from hfseg.data import StreamDataset, TableDataset, model_input, pick_samples
from hfseg.engine.cost import (
    CPU_MEMORY_METHOD,
    CUDA_MEMORY_METHOD,
    MACS_METHOD,
    Call,
    CostConfig,
    count_macs,
    latencies,
    peak_bytes,
)
from hfseg.engine.energy import METHOD as ENERGY_METHOD
from hfseg.engine.energy import counter_of, joules_per_call
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.memory import out_of_memory_told
from hfseg.engine.runtime import Runtime
from hfseg.errors import HfsegError
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter, open_model
from hfseg.models.ops import freely_chosen
from hfseg.models.ops.cost import FORMULAS
from hfseg.recipes.pictures import predict_images
from hfseg.values import Clip, Sample
from hfseg.viz import save_index_mask
from hfseg.viz.run import read_run

MIB = 2**20
Failures = dict[str, str]
"""What went wrong, by member."""


@dataclass(frozen=True)
class Opened:
    """A member's model, and how it is shown images."""

    segmenter: Segmenter
    protocol: ProtocolConfig

    @property
    def memory_frames(self) -> int:
        """How many frames before an image the model reads."""
        return self.segmenter.memory_frames or 0

    def call(self, pixel_values: Tensor, size: tuple[int, int]) -> Call:
        """Give the prediction of a batch as it is evaluated: resizing, every view, and the class of every pixel.

        A model with memory sees each image as the last frame of a clip of its length.
        """
        frames = 1 + self.memory_frames
        seen = pixel_values if frames == 1 else pixel_values[:, None].expand(-1, frames, -1, -1, -1).contiguous()
        return lambda: self.protocol.predict(self.segmenter, seen, size)

    def predict(self, sample: Sample | Clip) -> Integer[np.ndarray, "h w"]:
        """Predict an image, or the last frame of a clip that is at least as long as the model's memory."""
        seen = sample.pixels[-1 - self.memory_frames :] if self.memory_frames else sample.image
        return predict_images(self.segmenter, [seen], protocol=self.protocol)[0]


@dataclass(frozen=True)
class Measured:
    """What was measured of the members whose models could be opened and run."""

    costs: dict[str, dict[str, Any]]
    conditions: dict[str, Any]
    opened: dict[str, Opened]
    failures: Failures


def measure(
    models: Mapping[str, Path],
    protocol: ProtocolConfig,
    dataset: TableDataset | StreamDataset,
    config: CostConfig,
    runtime: Runtime,
) -> Measured:
    """Measure every model on the first image of a data set, at the size at which it is evaluated."""
    image = next(iter(pick_samples(dataset, 1))).image
    pixels = torch.from_numpy(model_input(image, short_side=protocol.loader_short_side).copy()).permute(2, 0, 1)[None]
    size = (image.shape[0], image.shape[1])
    batch = pixels.expand(config.batch_size, -1, -1, -1).contiguous().to(runtime.device)
    costs: dict[str, dict[str, Any]] = {}
    opened: dict[str, Opened] = {}
    failures: Failures = {}
    for name, path in models.items():
        with _kept_apart(failures, name):
            model = Opened(open_model(path)[0], protocol)
            with out_of_memory_told(model.segmenter, runtime.device), freely_chosen():
                macs = count_macs(model.call(pixels, size), formulas=FORMULAS)
                model.segmenter.to(runtime.device)
                memory = _weight_bytes(model.segmenter) + peak_bytes(model.call(batch, size), runtime.device)
            costs[name] = {"macs": macs.total, "uncounted": list(macs.uncounted), "memory_mb": memory / MIB}
            opened[name] = model
    counter = counter_of(runtime.device)
    _add_times(
        {name: model.call(batch, size) for name, model in opened.items()}, costs, config, runtime.device, counter
    )
    conditions = _conditions(config, batch, size, opened, runtime, counted=counter is not None)
    return Measured(costs, conditions, opened, failures)


def _add_times(
    calls: Mapping[str, Call],
    costs: dict[str, dict[str, Any]],
    config: CostConfig,
    device: torch.device,
    counter: Callable[[], float] | None,
) -> None:
    """Time all predictions by turns, and measure the energy of each where the device counts it."""
    for name, latency in (latencies(calls, config, device) if calls else {}).items():
        costs[name]["latency"] = latency.to_dict()
    if counter is not None:
        for name, call in calls.items():
            joules = joules_per_call(_waiting(call, device), counter, seconds=config.energy_s)
            costs[name]["joules"] = joules / config.batch_size


def draw_predictions(
    opened: Mapping[str, Opened], samples: Iterable[Sample | Clip], folder: Path, space: LabelSpace
) -> list[str]:
    """Write what every model predicts for each image, as index masks, beside the image and its labels; give the ids."""
    ids = []
    for sample in samples:
        stem = Path(sample.id).name
        target = folder / stem
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image).save(target / "image.jpg", quality=90)
        save_index_mask(sample.labels, space, target / "labels.png")
        for name, model in opened.items():
            save_index_mask(model.predict(sample), space, target / f"member-{name}.png")
        ids.append(stem)
    return ids


def training_facts(folder: Path) -> dict[str, Any]:
    """Read from a run what its training took; None where it was not recorded."""
    run = read_run(folder)
    speeds = sorted(record["images_per_s"] for record in run.train if record.get("images_per_s"))
    seconds = [record["seconds"] for record in run.train if record.get("seconds")]
    peaks = [record["peak_memory_mb"] for record in run.train if record.get("peak_memory_mb")]
    rows = run.parameters or ()
    return {
        "images_per_s": speeds[len(speeds) // 2] if speeds else None,
        "train_seconds": sum(seconds) if seconds else None,
        "train_memory_mb": max(peaks, default=None),
        "parameters": sum(row["total"] for row in rows) if rows else None,
        "trainable": sum(row["trainable"] for row in rows) if rows else None,
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
    batch: Tensor,
    size: tuple[int, int],
    opened: Mapping[str, Opened],
    runtime: Runtime,
    *,
    counted: bool,
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
        "input": list(batch.shape[-2:]),
        "output": list(size),
        "warm_up": config.warm_up,
        "rounds": config.rounds,
        "macs_method": MACS_METHOD,
        "memory_method": CUDA_MEMORY_METHOD if on_cuda else CPU_MEMORY_METHOD,
        "energy_method": ENERGY_METHOD if counted else None,
    }
