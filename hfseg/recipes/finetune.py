"""`hfseg finetune`: from a data set and a model to a fine-tuned model, its scores, its pictures and its page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfseg.config import leaves
from hfseg.engine.checkpoint import load_newest, write_file
from hfseg.engine.lock import sole_run
from hfseg.engine.loop import fit
from hfseg.engine.lost import lost_processes_told
from hfseg.engine.runtime import Runtime
from hfseg.metrics import DIAGONAL_SHARE, BootstrapConfig
from hfseg.models import open_model, parameter_table
from hfseg.recipes.console import say
from hfseg.recipes.evidence import write_counts
from hfseg.recipes.pictures import draw_samples
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.scoring import AnyDataset, describe, write_metrics
from hfseg.recipes.subjects import ModelSubject, count_over
from hfseg.recipes.teacher import open_teacher
from hfseg.recipes.training import (
    batches_per_epoch,
    build_model,
    check_sharding,
    make_task,
    open_data,
    with_largest_batch,
)
from hfseg.viz import build_report


@dataclass(frozen=True)
class Result:
    """What a run leaves behind."""

    folder: Path
    report: Path
    metrics: dict[str, Any]


def run(config: FinetuneConfig, *, resume: bool = False) -> Result | None:
    """Train as `config` says, then score, draw and report the model with the best mean IoU.

    With `resume` the run in `config.output` goes on from its newest checkpoint. Only the main process gives a result.

    Raises:
        HfsegError: a setting, the data or the model is not usable; nothing has been written then.
        RunFailed: training could not go on; the last checkpoint is whole.
    """
    runtime, folder = config.runtime.start(config.output), RunFolder(config.output)
    check_sharding(config, runtime)
    with sole_run(folder.path, runtime, warn=say), lost_processes_told():
        return _run(config, folder, runtime, resume=resume)


def _run(config: FinetuneConfig, folder: RunFolder, runtime: Runtime, *, resume: bool) -> Result | None:
    """Do what `run` says in a folder in which no other run is at work."""
    runtime.on_main(lambda: folder.check(config, runtime, resume=resume))
    train, validation = open_data(config, runtime)
    teacher = open_teacher(config, train, runtime)
    if teacher is not None and resume:
        runtime.on_main(lambda: teacher.check(folder))
    segmenter = build_model(config, train, runtime)
    if config.optim.auto_batch and not resume:  # what was found is in the run's config.yaml
        trial = make_task(config, segmenter, train, validation, runtime, teacher=teacher)
        config = with_largest_batch(config, trial, segmenter.minimum_train_batch, runtime)
    plan = config.train.plan(batches_per_epoch(config, train, runtime))
    task = make_task(config, segmenter, train, validation, runtime, teacher=teacher)
    state = load_newest(folder.checkpoints, warn=say) if resume else None
    if not resume:
        runtime.on_main(lambda: folder.start(config, runtime))
    if teacher is not None and not resume:
        runtime.on_main(lambda: teacher.keep(folder))
    runtime.on_main(lambda: write_file(folder.path / "parameters.json", json.dumps(parameter_table(segmenter))))
    runtime.open_trackers(dict(leaves(config.model_dump(mode="json"))))
    fit(task, plan, config.optim, runtime, folder.path, state=state)
    metrics = score_best(config, folder, validation, runtime)
    if not runtime.is_main:
        return None
    return Result(folder.path, build_report(folder.path), metrics)


def score_best(config: FinetuneConfig, folder: RunFolder, validation: AnyDataset, runtime: Runtime) -> dict[str, Any]:
    """Score the best model once more with all counts, and draw what it predicts."""
    segmenter, space = open_model(folder.best)
    loss = config.loss.unweighted().build(ignore_index=space.ignore_index)
    subject = ModelSubject(segmenter.to(runtime.device), config.protocol, loss)
    evaluation = count_over(subject, validation, config.loader, runtime, boundary_width=DIAGONAL_SHARE)
    metrics = describe(
        evaluation,
        space,
        boundary_width=DIAGONAL_SHARE,
        bootstrap=BootstrapConfig(),
        model=folder.best.name,
        dataset={"kind": config.data.kind, "split": "validation", "images": len(evaluation.ids)},
        protocol=subject.protocol_facts,
    )
    if runtime.is_main:
        write_metrics(metrics, folder.path / "metrics.json")
        write_counts(evaluation, metrics, folder.path)
        draw_samples(segmenter, validation, config.protocol, folder.path / "predictions", count=config.samples)
    return metrics
