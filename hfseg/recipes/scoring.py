"""Scoring a model on one part of a data set, and what is written about it."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hfseg.data import AugmentConfig, LoaderConfig, StreamDataset, TableDataset, eval_loader, verify
from hfseg.engine.checkpoint import write_file
from hfseg.engine.evaluation import Evaluation, evaluate
from hfseg.engine.runtime import Runtime
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.losses import LossConfig
from hfseg.metrics import Scores, confusion, constant_baseline
from hfseg.models import Segmenter
from hfseg.recipes.console import progress
from hfseg.values import Batch
from hfseg.viz import scores_csv


def verify_on_main(dataset: TableDataset | StreamDataset, *, workers: int, runtime: Runtime) -> None:
    """Read every mask and image header of a data set once, in the main process; a stream is checked as it is read.

    Raises:
        DataError: files cannot be used; names them.
    """

    def check() -> None:
        if isinstance(dataset, TableDataset):
            with progress(f"checking {len(dataset)} images of {dataset.name}") as show:
                verify(dataset, workers=workers, progress=show)

    runtime.on_main(check)


def evaluate_on(
    segmenter: Segmenter,
    dataset: TableDataset | StreamDataset,
    *,
    augment: AugmentConfig,
    loader: LoaderConfig,
    loss: LossConfig,
    runtime: Runtime,
    show: Callable[[int, int | None], None] = lambda done, total: None,
) -> Evaluation:
    """Count pixels by label and prediction over a whole data set, at the labels' own size.

    `show` is told how many batches are done, and of how many.
    """
    space = dataset.labels
    loaded = eval_loader(
        dataset, loader, short_side=augment.short_side, rank=runtime.rank, world_size=runtime.world_size
    )

    def shown() -> Iterator[Batch]:
        total = loaded.num_batches
        for done, batch in enumerate(loaded, start=1):
            yield batch
            show(done, total)

    return evaluate(
        segmenter,
        shown(),
        count=partial(confusion, num_labels=space.num_labels, ignore_index=space.ignore_index),
        criterion=loss.build(ignore_index=space.ignore_index),
        runtime=runtime,
    )


def describe(evaluation: Evaluation, space: LabelSpace, **facts: Any) -> dict[str, Any]:
    """Put scores, the constant predictor's scores beside them, and `facts` about the evaluation into one value."""
    scores, baseline = Scores.from_confusion(evaluation.confusion), constant_baseline(evaluation.confusion)
    table = scores.to_dict(space.names, space.palette)
    return {
        **facts,
        "loss": evaluation.loss,
        "baseline": {
            "class": space.names[baseline.predicted_pixels.index(max(baseline.predicted_pixels))],
            "mean_iou": baseline.mean_iou,
            "overall_accuracy": baseline.overall_accuracy,
        },
        **table,
        "confusion": evaluation.confusion.tolist(),
    }


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Write `metrics.json`, and the table of the classes beside it as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path.with_suffix(".csv"), scores_csv(metrics))
    write_file(path, json.dumps(metrics, indent=2))


def check_same_classes(model: LabelSpace, data: LabelSpace, *, name: str) -> None:
    """Refuse to score a model on labels of other classes.

    Raises:
        DataError: the numbers of classes differ, or names at the same place do.
    """
    ours, theirs = ([_plain(label) for label in space.names] for space in (model, data))
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        difference = f"it has {len(ours)} classes, the data set has {len(theirs)}"
    else:
        place = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        difference = f"class {place} is `{model.names[place]}` in the model and `{data.names[place]}` in the data set"
    raise DataError(
        f"model `{name}` cannot be scored on this data set: {difference}",
        hint="give the classes the model was trained on with `--set data.classes=[...]`, or fine-tune it on this data",
    )


def _plain(label: str) -> str:
    """A class name without its synonyms: data sets and models list them differently."""
    return label.split(";")[0].split(",")[0].strip().lower()
