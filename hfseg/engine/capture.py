"""What is kept of a step that went wrong: the weights before it, and where its batch comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfseg.engine.checkpoint import replace_folder
from hfseg.errors import CheckpointError

_FACTS, _WEIGHTS = "capture.json", "model.safetensors"


@dataclass(frozen=True)
class Breakdown:
    """The first loss, or the first norm of the gradients, that was not finite."""

    step: int
    """The step it happened in; the first is 1."""
    what: Literal["loss", "gradient norm"]
    value: float
    micro: int
    """The batch of the step, from 0; the last one for a gradient."""
    rank: int
    """The process whose batch it was; for a gradient, which all processes share, the one that says so."""
    ids: tuple[str, ...]

    @property
    def order(self) -> tuple[int, bool, int, int]:
        """The earliest comes first, and a loss before the gradient that it made."""
        return self.step, self.what != "loss", self.micro, self.rank

    def __str__(self) -> str:
        aside = ", though the loss is finite" if self.what != "loss" else ""
        return (
            f"{self.what} is {self.value} at step {self.step}{aside}: "
            f"the batch holds {', '.join(f'`{name}`' for name in self.ids)}"
        )


@dataclass(frozen=True)
class Capture:
    """A breakdown, and what its batch and its random draws are functions of."""

    breakdown: Breakdown
    seed: int
    world_size: int
    accumulation: int

    @property
    def name(self) -> str:
        """The folder it is written to."""
        return f"step-{self.breakdown.step:06d}"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The processes whose batch may be the cause."""
        return (self.breakdown.rank,) if self.breakdown.what == "loss" else tuple(range(self.world_size))


def save_capture(folder: Path, capture: Capture, weights: Mapping[str, Tensor]) -> None:
    """Write `folder/step-NNNNNN` with the weights before that step.

    Raises:
        OSError: the disk is full or cannot be written.
    """

    def write(directory: Path) -> None:
        save_file({name: value.contiguous() for name, value in weights.items()}, directory / _WEIGHTS)
        (directory / _FACTS).write_text(json.dumps(asdict(capture), indent=2), encoding="utf-8")

    replace_folder(folder / capture.name, write)


def load_capture(path: Path) -> tuple[Capture, dict[str, Tensor]]:
    """Read what `save_capture` wrote, by its folder or a file in it.

    Raises:
        CheckpointError: it is not there, or cannot be read.
    """
    folder = path.parent if path.is_file() else path
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        found = facts.pop("breakdown")
        breakdown = Breakdown(**{**found, "ids": tuple(found["ids"])})
        return Capture(breakdown, **facts), load_file(folder / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"`{path}` holds no step that went wrong: {' '.join(str(error).split())}",
            hint="give RUN/nan/step-NNNNNN, which a run writes when its loss is not finite",
        ) from None
