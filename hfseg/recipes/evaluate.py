"""`hfseg evaluate`: dataset-level scores of a run, a model folder, a Hub model, or a folder of predictions."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from hfseg.config import Config
from hfseg.data import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    CorruptionName,
    DataConfig,
    EvalLoaderConfig,
    TableDataset,
)
from hfseg.engine.evaluation import Evaluation
from hfseg.engine.inference import ProtocolConfig, WholeConfig
from hfseg.engine.runtime import DeviceConfig, Runtime
from hfseg.errors import ConfigError
from hfseg.losses import LossConfig
from hfseg.metrics import DIAGONAL_SHARE, BootstrapConfig, Scores, corruption_table
from hfseg.models import open_model
from hfseg.recipes.console import progress, say
from hfseg.recipes.evidence import compare_with, draw_confusion, draw_worst, write_counts
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.scoring import (
    AnyDataset,
    check_same_classes,
    describe,
    verify_on_main,
    write_metrics,
)
from hfseg.recipes.subjects import ModelSubject, PredictionFolder, Subject, count_over


class CorruptionConfig(Config):
    """Which corruptions images are scored under, beside the clean ones."""

    names: tuple[CorruptionName, ...] = ()
    """Corruptions by name; none where empty."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = SEVERITIES
    """How strong they are, 1 to 5."""
    seed: NonNegativeInt = 0
    """Seed of what is random in them: every model is shown the same images."""

    @model_validator(mode="after")
    def _each_once(self) -> "CorruptionConfig":
        for key, values in (("names", self.names), ("severities", self.severities)):
            if len(set(values)) < len(values):
                raise ValueError(f"`{key}` holds a value twice: got {', '.join(map(str, values))}")
        if self.names and not self.severities:
            raise ValueError("`severities` is empty: expected one or more of 1 to 5")
        if not self.names and (self.severities != SEVERITIES or self.seed):
            raise ValueError("`severities` and `seed` have no effect without corruptions: got no `names`")
        return self

    def members(self) -> list[Corruption]:
        """List every corruption at every severity."""
        return [Corruption(name, severity, self.seed) for name in self.names for severity in self.severities]


class EvaluateConfig(Config):
    """Which model is scored on what, and how."""

    model: str | None = None
    """A run folder (its `best-miou` is taken), a model folder, or a Hub id."""
    predictions: Path | None = None
    """A folder of index masks that anything made, in the place of a model: `ID.png` or `ID_anything.png`."""
    prediction_values: Literal["ids", "raw"] = "ids"
    """What those masks hold: class ids from 0, or the raw values of the data set (as Cityscapes' labelIds)."""
    data: DataConfig | None = None
    """The data set; a run's own where it is not given."""
    split: Literal["train", "validation", "test"] = "validation"
    """The part of the data set."""
    protocol: ProtocolConfig | None = None
    """How the model is shown an image; a run's own where it is not given, else whole images of their native size."""
    memory_frames: NonNegativeInt | None = None
    """Frames before each image that a model with memory is shown; as many as it was made to read where it is not given.
    0 shows it single images."""
    boundary_width: Annotated[float, Field(gt=0, lt=1)] | None = DIAGONAL_SHARE
    """Width of the bands in which boundary IoU is scored, as a share of the image's diagonal; none leaves it out."""
    bootstrap: BootstrapConfig = BootstrapConfig()
    corruptions: CorruptionConfig = CorruptionConfig()
    against: Path | None = None
    """Folder of another model's evaluation on the same images, to be compared with."""
    worst: NonNegativeInt = 8
    """Images of the lowest IoU that are drawn."""
    output: Path | None = None
    """Folder for what is written; where it is not given, the run's folder for its own validation part and protocol,
    else `eval/MODEL/SPLIT-PROTOCOL` in the run's folder or the working directory."""
    verify_data: bool = True
    """Read every mask and every image header first, and name what is wrong."""
    loader: EvalLoaderConfig = EvalLoaderConfig()
    runtime: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _model_or_predictions(self) -> "EvaluateConfig":
        if (self.model is None) == (self.predictions is None):
            given = "both" if self.model else "neither"
            raise ValueError(f"a model or a folder of `predictions` is scored: got {given}")
        idle = {
            "protocol": self.protocol is not None and self.predictions is not None,
            "corruptions": bool(self.corruptions.names) and self.predictions is not None,
            "memory_frames": self.memory_frames is not None and self.predictions is not None,
            "prediction_values": self.prediction_values == "raw" and self.predictions is None,
        }
        for key in (key for key, is_idle in idle.items() if is_idle):
            raise ValueError(f"`{key}` has no effect on {'predictions' if self.predictions else 'a model'}")
        return self

    @property
    def name(self) -> str:
        """What is scored."""
        return str(self.model or self.predictions)


def corruption_names(text: str | None) -> list[str] | None:
    """Read `all`, or names joined by commas."""
    if text is None:
        return None
    return [*CORRUPTIONS] if text == "all" else [name.strip() for name in text.split(",")]


def run(config: EvaluateConfig) -> dict[str, Any] | None:
    """Score a model on every image of a part of a data set, once; only the main process gives a result.

    Raises:
        HfsegError: the model or the data cannot be used, or their classes differ.
    """
    runtime = config.runtime.start()
    folder = None if config.model is None else RunFolder.of_model(config.model)
    settings = folder.settings() if folder else None
    data = _data(config, settings)
    dataset = data.open(config.split)
    subject = _subject(config, settings, dataset, runtime)
    dataset = dataset.clips(subject.memory_frames if config.memory_frames is None else config.memory_frames)
    if config.verify_data:
        verify_on_main(dataset, workers=config.loader.workers, runtime=runtime)
    evaluation = _count(config, subject, dataset, runtime)
    metrics = describe(
        evaluation,
        dataset.labels,
        boundary_width=config.boundary_width,
        bootstrap=config.bootstrap,
        model=config.name,
        dataset={"kind": data.kind, "split": config.split, "images": len(evaluation.ids)},
        protocol=subject.protocol_facts,
    )
    if config.corruptions.names:
        metrics |= _corrupted(config, subject, dataset, runtime, clean=metrics["mean_iou"])
    if config.against is not None:
        metrics["against"] = compare_with(config.against, evaluation, metrics, config.bootstrap)
    target = _output(config, folder, metrics["protocol"]["text"])
    runtime.on_main(lambda: _write(config, evaluation, metrics, dataset, subject, target))
    return metrics if runtime.is_main else None


def _data(config: EvaluateConfig, settings: FinetuneConfig | None) -> Any:
    """The data set that was given, else the run's own."""
    data = config.data or (settings.data if settings else None)
    if data is None:
        raise ConfigError(
            f"`{config.name}` is not a run of hfseg, so its data set is not known: `data` was not given",
            hint="give --dataset and --data-dir",
        )
    return data


def _subject(config: EvaluateConfig, settings: FinetuneConfig | None, dataset: AnyDataset, runtime: Runtime) -> Subject:
    """Open the model or the folder that is scored."""
    if config.model is None:
        assert config.predictions is not None
        return PredictionFolder(config.predictions, dataset.labels, raw=config.prediction_values == "raw")
    segmenter, space = open_model(config.model)
    check_same_classes(space, dataset.labels, name=config.model)
    protocol = config.protocol or (settings.protocol if settings else WholeConfig())
    loss = (settings.loss if settings else LossConfig()).unweighted()
    return ModelSubject(segmenter.to(runtime.device), protocol, loss.build(ignore_index=dataset.labels.ignore_index))


def _count(
    config: EvaluateConfig,
    subject: Subject,
    dataset: AnyDataset,
    runtime: Runtime,
    *,
    corruption: Corruption | None = None,
) -> Evaluation:
    what = f"evaluating {config.name} on {dataset.name} {config.split}"
    with progress(what if corruption is None else f"{what}, {corruption.name} {corruption.severity}") as show:
        width = config.boundary_width if corruption is None else None
        return count_over(subject, dataset, config.loader, runtime, boundary_width=width, change=corruption, show=show)


def _corrupted(
    config: EvaluateConfig, subject: Subject, dataset: AnyDataset, runtime: Runtime, *, clean: float
) -> dict[str, Any]:
    """Score the same images under every corruption."""
    found = []
    for corruption in config.corruptions.members():
        counted = _count(config, subject, dataset, runtime, corruption=corruption)
        miou = Scores.from_confusion(counted.totals["confusion"]).mean_iou
        found.append((corruption.name, corruption.severity, miou))
    return corruption_table(clean, found)


def _output(config: EvaluateConfig, folder: RunFolder | None, protocol: str) -> Path:
    if config.output is not None:
        return config.output
    changed = (config.data, config.protocol, config.memory_frames) != (None, None, None)
    own = config.split == "validation" and not changed
    if folder is not None and own and not config.corruptions.names:
        return folder.path
    slug = re.sub(r"[^a-z0-9.]+", "-", protocol)
    return (folder.path if folder else Path()) / "eval" / Path(config.name).name / f"{config.split}-{slug}"


def _write(
    config: EvaluateConfig,
    evaluation: Evaluation,
    metrics: dict[str, Any],
    dataset: AnyDataset,
    subject: Subject,
    target: Path,
) -> None:
    """Write scores, the counts of every image, and pictures of what went wrong."""
    write_metrics(metrics, target / "metrics.json")
    write_counts(evaluation, metrics, target)
    draw_confusion(evaluation, dataset.labels, target)
    if isinstance(dataset, TableDataset):
        text = metrics["protocol"]["text"]
        draw_worst(evaluation, dataset, target, count=config.worst, protocol=text, predict=subject.predict)
    say(f"written: {target}")
