"""A run: its settings as one value, and its folder."""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, model_validator

from hfseg.config import KIND, Config, differences, kind_of, models_in
from hfseg.data import AugmentConfig, DataConfig, DemoConfig, LoaderConfig
from hfseg.engine.checkpoint import write_file
from hfseg.engine.environment import environment
from hfseg.engine.inference import ProtocolConfig, WholeConfig
from hfseg.engine.lock import LOCK
from hfseg.engine.optim import OptimConfig
from hfseg.engine.plan import TrainConfig
from hfseg.engine.runtime import Runtime, RuntimeConfig
from hfseg.errors import CheckpointError
from hfseg.losses import DistillConfig, LossConfig
from hfseg.models import AdapterConfig, FreezeConfig, ModelConfig, SegformerModelConfig

FREE_ON_RESUME = frozenset(
    {
        "output",
        "loader.workers",
        "loader.timeout_s",
        "loader.on_error",
        "train.keep_checkpoints",
        "runtime.num_processes",
    }
)
"""Settings that may differ when a run goes on: they do not change its weights, or only where it would have ended."""

DEALING = frozenset({"loader.batch_size", "train.accumulation", "runtime.sharding"})
"""Settings that may differ when a run goes on with as many images in a step: they say how these are dealt out."""

CHANGES = ("photometric", "blur", "noise", "erase", "copy_paste")
"""The settings of augmentation that change pixels, by numbers drawn anew in each epoch."""


class FinetuneConfig(Config):
    """Everything that decides a run."""

    output: Path = Path("runs/run")
    """Folder of the run; it must not exist, unless the run is resumed."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the weights that are new, the order of the images, augmentation and dropout."""
    verify_data: bool = True
    """Read every mask and every image header before the first step, and name what is wrong."""
    samples: NonNegativeInt = 8
    """Validation images that are predicted for the report."""
    data: DataConfig = DemoConfig()
    augment: AugmentConfig = AugmentConfig()
    loader: LoaderConfig = LoaderConfig()
    model: ModelConfig = SegformerModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    freeze: FreezeConfig = FreezeConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluation: ProtocolConfig | None = None
    """How the model is shown images in validations; whole, at `augment.short_side`, where it is not given."""
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _kept_logits_are_met_again(self) -> "FinetuneConfig":
        augment = self.augment
        varies = {
            "scale": augment.scale[0] != augment.scale[1],
            **{name: bool(getattr(augment, name)) for name in ("rotate", *CHANGES)},
        }
        found = [f"`augment.{name}`" for name, is_so in varies.items() if is_so]
        if self.distill.cache is not None and found:
            raise ValueError(
                f"`distill.cache` has no effect with {', '.join(found)}: a sample is never shown alike again\n\n"
                "hint: leave out `distill.cache`, or set augment.scale=[1,1] and the others to 0 or false; flips may "
                "stay"
            )
        return self

    @property
    def protocol(self) -> ProtocolConfig:
        """How the model is shown images in validations."""
        return self.evaluation or WholeConfig(short_side=self.augment.short_side)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by name."""

    path: Path

    @classmethod
    def of_model(cls, model: str) -> "RunFolder | None":
        """Find the run that a model belongs to: the folder itself or the one above; None for any other model."""
        path = Path(model)
        found = (folder for folder in (path, path.absolute().parent) if (folder / "config.yaml").is_file())
        return next((cls(folder) for folder in found if (folder / "env.json").is_file()), None)

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The model folder with the best mean IoU."""
        return self.path / "best-miou"

    @property
    def teacher(self) -> Path:
        """Which weights teach the run, where any do."""
        return self.path / "teacher.json"

    def settings(self) -> FinetuneConfig:
        """Read the settings that the run was started with."""
        return FinetuneConfig.load(yaml_path=self.config)

    def dealing(self) -> tuple[int, int, int]:
        """Read how the images of a step were dealt out at the start: processes, images a batch, batches a step."""
        config, processes = self.settings(), json.loads((self.path / "env.json").read_text())["processes"]
        return int(processes), config.loader.batch_size, config.train.accumulation

    def check(self, config: FinetuneConfig, runtime: Runtime, *, resume: bool) -> None:
        """Check that a run can start here, or that the run that is here can go on; write nothing.

        Raises:
            CheckpointError: something is in the way, there is no run to go on with, or it was started with other
                settings (names the keys that differ), or its steps took another number of images.
        """
        if resume:
            self._check_same(config, runtime)
        elif self.path.exists() and (not self.path.is_dir() or any(p.name != LOCK for p in self.path.iterdir())):
            raise CheckpointError(
                f"output `{self.path}` exists already",
                hint="go on with it by --resume, or give another --output; a run is never overwritten",
            )

    def start(self, config: FinetuneConfig, runtime: Runtime) -> None:
        """Make the folder of a new run, with its settings and its environment."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.path / "env.json", json.dumps(environment(runtime), indent=2))
        write_file(self.config, config.to_yaml())

    def _check_same(self, config: FinetuneConfig, runtime: Runtime) -> None:
        if not self.config.is_file():
            raise CheckpointError(
                f"there is no run to resume in `{self.path}`: `{self.config.name}` is missing",
                hint="leave out --resume to start one",
            )
        before = self.settings()
        was = self.dealing()
        now = (runtime.world_size, config.loader.batch_size, config.train.accumulation)
        same_batch = math.prod(was) == math.prod(now)
        free = FREE_ON_RESUME | (DEALING if same_batch or was[0] != now[0] else set())
        changed = {key: pair for key, pair in differences(before, config).items() if key not in free}
        if changed:
            listed = ", ".join(f"`{key}` was {old!r}, got {new!r}" for key, (old, new) in changed.items())
            raise CheckpointError(
                f"run `{self.path}` was started with another config: {listed}",
                hint="resume with the run's own settings (--output RUN --resume alone), or start another run",
            )
        if not same_batch:
            wanted = math.prod(was) / runtime.world_size
            each = f"{wanted:g} on each" if wanted.is_integer() else "which cannot be dealt out evenly"
            raise CheckpointError(
                f"run `{self.path}` was started with {was[0]} processes: got {now[0]}; a step took "
                f"{_product(was)} images, and would take {_product(now)}",
                hint=f"start {was[0]} processes, or set `loader.batch_size` x `train.accumulation` so that "
                f"{now[0]} x both is {math.prod(was)} ({each})",
            )


def _product(parts: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, parts))} = {math.prod(parts)}"


def protocol_settings(model: str | None, kind: str | None) -> dict[str, Any]:
    """Give the settings of a run's own protocol by dotted key, over which others are laid.

    Where another `kind` of protocol is wanted, those that the two kinds share are left.
    """
    folder = None if model is None else RunFolder.of_model(model)
    own = (folder.settings().protocol if folder else WholeConfig()).model_dump(mode="json")
    kept = next((set(member.model_fields) for member in models_in(ProtocolConfig) if kind_of(member) == kind), set(own))
    return {f"protocol.{key}": value for key, value in {**own, KIND: kind or own[KIND]}.items() if key in kept}


def free_output(config: FinetuneConfig) -> Path:
    """Name a folder below `runs/` after the data and the model, with a number where that name is taken."""
    model = (
        config.model.checkpoint if config.model.kind == "checkpoint" else f"{config.model.kind}-{config.model.backbone}"
    )
    base = Path("runs") / f"{config.data.kind}-{Path(model).name}"
    candidates = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in itertools.count(1))
    return next(path for path in candidates if not path.exists())
