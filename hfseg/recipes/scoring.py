"""Scoring a model on one part of a data set, and what is written about it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hfseg.data import (
    Change,
    EvalLoaderConfig,
    ShardTable,
    StreamDataset,
    TableDataset,
    check_checksums,
    eval_loader,
    verify,
)
from hfseg.engine.checkpoint import write_file
from hfseg.engine.evaluation import Evaluation
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.runtime import Runtime
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.metrics import BootstrapConfig, Counting, score_table
from hfseg.recipes.console import progress
from hfseg.values import Batch
from hfseg.viz import largest_confusions, scores_csv

AnyDataset = TableDataset | StreamDataset
CONFUSIONS = 20
"""The largest confusions that are listed in `metrics.json`."""
Show = Callable[[int, int | None], None]
"""Told how many batches are done, and of how many."""


def verify_on_main(dataset: AnyDataset, *, workers: int, runtime: Runtime) -> None:
    """Read every mask and image header of a data set once, in the main process; a stream is checked as it is read.

    Of shards, whose masks were read when they were written, the checksums are compared.

    Raises:
        DataError: files cannot be used; names them.
    """

    def check() -> None:
        if isinstance(dataset, TableDataset):
            with progress(f"checking {len(dataset)} images of {dataset.name}") as show:
                if isinstance(dataset.table, ShardTable):
                    check_checksums(dataset.table, workers=workers, progress=show)
                else:
                    verify(dataset, workers=workers, progress=show)

    runtime.on_main(check)


def shown_batches(
    dataset: AnyDataset,
    loader: EvalLoaderConfig,
    runtime: Runtime,
    *,
    short_side: int | None = None,
    change: Change | None = None,
    show: Show = lambda done, total: None,
) -> Iterator[Batch]:
    """Read this process's share of a data set, and tell `show` how far it is."""
    loaded = eval_loader(
        dataset, loader, short_side=short_side, change=change, rank=runtime.rank, world_size=runtime.world_size
    )
    total = loaded.num_batches
    for done, batch in enumerate(loaded, start=1):
        yield batch
        show(done, total)


def counting(space: LabelSpace, *, boundary_width: float | None = None) -> Counting:
    """Say how pixels of these classes are counted."""
    return Counting(space.num_labels, space.ignore_index, boundary_width)


def describe(
    evaluation: Evaluation,
    space: LabelSpace,
    *,
    boundary_width: float | None = None,
    bootstrap: BootstrapConfig | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Put scores, the constant predictor's scores beside them, and `facts` about the evaluation into one value."""
    table = score_table(
        evaluation.totals,
        evaluation.images,
        names=space.names,
        palette=space.palette,
        boundary_width=boundary_width,
        bootstrap=bootstrap,
    )
    confused = largest_confusions(evaluation.totals["confusion"].numpy(), space.names, CONFUSIONS)
    return {**facts, "loss": evaluation.loss, **table, "largest_confusions": [row._asdict() for row in confused]}


def protocol_facts(protocol: ProtocolConfig) -> dict[str, Any]:
    """Write a protocol as it stands beside every score: its settings, and in words."""
    return {**protocol.model_dump(mode="json"), "text": protocol.to_text()}


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    """Write `metrics.json`, and the table of the classes beside it as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path.with_suffix(".csv"), scores_csv(metrics))
    write_file(path, json.dumps(metrics, indent=2))


def check_same_classes(model: LabelSpace, data: LabelSpace, *, name: str, use: str = "be scored on") -> None:
    """Refuse a model for labels of other classes; `use` says what it was to do with them.

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
        f"model `{name}` cannot {use} this data set: {difference}",
        hint="give the classes the model was trained on with `--set data.classes=[...]`, or fine-tune it on this data",
    )


def _plain(label: str) -> str:
    """A class name without its synonyms: data sets and models list them differently."""
    return label.split(";")[0].split(",")[0].strip().lower()
