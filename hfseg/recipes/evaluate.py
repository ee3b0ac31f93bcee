"""`hfseg evaluate`: dataset-level scores of a run, a model folder or a Hub model."""

from pathlib import Path
from typing import Any, Literal

from hfseg.config import Config
from hfseg.data import AugmentConfig, DataConfig, LoaderConfig
from hfseg.engine.runtime import DeviceConfig
from hfseg.errors import ConfigError
from hfseg.losses import LossConfig
from hfseg.models import open_model
from hfseg.recipes.console import progress
from hfseg.recipes.run import RunFolder
from hfseg.recipes.scoring import check_same_classes, describe, evaluate_on, verify_on_main, write_metrics


class EvaluateConfig(Config):
    """Which model is scored on what, and how."""

    model: str
    """A run folder (its `best-miou` is taken), a model folder, or a Hub id."""
    data: DataConfig | None = None
    """The data set; a run's own where it is not given."""
    split: Literal["train", "validation", "test"] = "validation"
    """The part of the data set."""
    short_side: int | None = None
    """Images are brought to this short side before the model sees them; a run's own, else the native size."""
    output: Path | None = None
    """Folder for `metrics.json` and `metrics.csv`; where it is not given, the run's folder for its own validation
    part, else `eval/MODEL/SPLIT` in the run's folder or the working directory."""
    verify_data: bool = True
    """Read every mask and every image header first, and name what is wrong."""
    loader: LoaderConfig = LoaderConfig()
    loss: LossConfig = LossConfig()
    runtime: DeviceConfig = DeviceConfig()


def run(config: EvaluateConfig) -> dict[str, Any] | None:
    """Score a model on every image of a part of a data set, once; only the main process gives a result.

    Raises:
        HfsegError: the model or the data cannot be used, or their classes differ.
    """
    runtime = config.runtime.start()
    folder = RunFolder.of_model(config.model)
    data, short_side = _protocol(config, folder)
    dataset = data.open(config.split)
    segmenter, space = open_model(config.model)
    check_same_classes(space, dataset.labels, name=config.model)
    if config.verify_data:
        verify_on_main(dataset, workers=config.loader.workers, runtime=runtime)
    with progress(f"evaluating {config.model} on {data.kind} {config.split}") as show:
        evaluation = evaluate_on(
            segmenter.to(runtime.device),
            dataset,
            augment=AugmentConfig(short_side=short_side),
            loader=config.loader,
            loss=config.loss,
            runtime=runtime,
            show=show,
        )
    metrics = describe(
        evaluation,
        dataset.labels,
        model=config.model,
        dataset={"kind": data.kind, "split": config.split, "images": evaluation.images},
        protocol={"mode": "whole", "short_side": short_side},
    )
    runtime.on_main(lambda: write_metrics(metrics, _output(config, folder) / "metrics.json"))
    return metrics if runtime.is_main else None


def _protocol(config: EvaluateConfig, folder: RunFolder | None) -> tuple[Any, int | None]:
    """The data set and the size of the images: what was given, else what the run was trained with."""
    settings = folder.settings() if folder else None
    data = config.data or (settings.data if settings else None)
    if data is None:
        raise ConfigError(
            f"model `{config.model}` is not a run of hfseg, so its data set is not known: `data` was not given",
            hint="give --dataset and --data-dir",
        )
    own = settings.augment.short_side if settings else None
    return data, config.short_side or own


def _output(config: EvaluateConfig, folder: RunFolder | None) -> Path:
    if config.output is not None:
        return config.output
    if folder is not None and config.data is None and config.split == "validation" and config.short_side is None:
        return folder.path
    name = Path(config.model).name
    return (folder.path if folder else Path()) / "eval" / name / config.split
