"""`hfseg finetune`: from a data set and a model to a fine-tuned model, its scores, its pictures and its page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfseg.config import leaves
from hfseg.data import Photometric, StreamDataset, TableDataset, train_loader
from hfseg.engine.checkpoint import load_newest, write_file
from hfseg.engine.loop import Task, fit
from hfseg.engine.runtime import Runtime
from hfseg.metrics import Scores
from hfseg.models import Segmenter, freeze, open_model, parameter_table, save_model, unfreeze
from hfseg.recipes.console import say, show_parameters, show_start
from hfseg.recipes.pictures import draw_samples
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.scoring import describe, evaluate_on, verify_on_main, write_metrics
from hfseg.values import Batch
from hfseg.viz import build_report

AnyDataset = TableDataset | StreamDataset


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
    runtime.on_main(lambda: folder.check(config, runtime, resume=resume))
    train, validation = open_data(config, runtime)
    plan = config.train.plan(batches_per_epoch(config, train, runtime))
    segmenter = build_model(config, train, runtime)
    state = load_newest(folder.checkpoints, warn=say) if resume else None
    if not resume:
        runtime.on_main(lambda: folder.start(config, runtime))
    runtime.on_main(lambda: write_file(folder.path / "parameters.json", json.dumps(parameter_table(segmenter))))
    runtime.open_trackers(dict(leaves(config.model_dump(mode="json"))))
    task = make_task(config, segmenter, train, validation, runtime)
    fit(task, plan, config.optim, runtime, folder.path, state=state)
    metrics = score_best(config, folder, validation, runtime)
    if not runtime.is_main:
        return None
    return Result(folder.path, build_report(folder.path), metrics)


def open_data(config: FinetuneConfig, runtime: Runtime) -> tuple[AnyDataset, AnyDataset]:
    """Open the training and validation parts, and look at every file of them where that was asked for."""
    train, validation = config.data.open("train"), config.data.open("validation")
    if config.verify_data:
        for dataset in (train, validation):
            verify_on_main(dataset, workers=config.loader.workers, runtime=runtime)
    return train, validation


def batches_per_epoch(config: FinetuneConfig, train: AnyDataset, runtime: Runtime) -> int | None:
    """Count the batches of each process in a pass over the data; None for a stream, whose length nobody knows."""
    if isinstance(train, StreamDataset):
        return None
    loader = train_loader(train, config.augment, config.loader, seed=config.seed, world_size=runtime.world_size)
    return loader.steps_per_epoch


def build_model(config: FinetuneConfig, train: AnyDataset, runtime: Runtime) -> Segmenter:
    """Build the model for the data's classes, freeze what was asked for, and show what is trained."""
    torch.manual_seed(config.seed)
    segmenter = config.model.build(train.labels, crop=config.augment.crop)
    if runtime.is_main:
        show_start(segmenter)
    if runtime.config.gradient_checkpointing:
        segmenter.enable_gradient_checkpointing()
    freeze(segmenter, config.freeze.modules)
    segmenter.check_train_batch(config.loader.batch_size)
    if runtime.is_main:
        show_parameters(parameter_table(segmenter))
    runtime.ready(segmenter)
    return segmenter


def make_task(
    config: FinetuneConfig, segmenter: Segmenter, train: AnyDataset, validation: AnyDataset, runtime: Runtime
) -> Task:
    """Wire data, model, loss and scores into what the loop trains."""
    space = train.labels
    loss = config.loss.build(ignore_index=space.ignore_index)

    def loss_fn(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return loss(model(batch.pixel_values), batch.labels)

    def validate() -> dict[str, Any]:
        evaluation = evaluate_on(
            segmenter, validation, augment=config.augment, loader=config.loader, loss=config.loss, runtime=runtime
        )
        scores = Scores.from_confusion(evaluation.confusion)
        names = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou")
        return {"loss": evaluation.loss, **{name: getattr(scores, name) for name in names}}

    return Task(
        model=segmenter,
        batches=lambda start: train_loader(
            train,
            config.augment,
            config.loader,
            seed=config.seed,
            rank=runtime.rank,
            world_size=runtime.world_size,
            start_step=start,
            pin_memory=runtime.device.type == "cuda",
        ),
        augment=Photometric(config.augment),
        loss_fn=loss_fn,
        validate=validate,
        export=lambda directory: save_model(segmenter, space, directory),
        unfreeze=lambda: unfreeze(segmenter),
        seed=config.seed,
        unfreeze_step=config.freeze.until_step,
    )


def score_best(config: FinetuneConfig, folder: RunFolder, validation: AnyDataset, runtime: Runtime) -> dict[str, Any]:
    """Score the best model once more with all counts, and draw what it predicts."""
    segmenter, space = open_model(folder.best)
    segmenter.to(runtime.device)
    evaluation = evaluate_on(
        segmenter, validation, augment=config.augment, loader=config.loader, loss=config.loss, runtime=runtime
    )
    metrics = describe(
        evaluation,
        space,
        model=folder.best.name,
        dataset={"kind": config.data.kind, "split": "validation", "images": evaluation.images},
        protocol={"mode": "whole", "short_side": config.augment.short_side},
    )
    if runtime.is_main:
        write_metrics(metrics, folder.path / "metrics.json")
        draw_samples(segmenter, validation, config.augment, folder.path / "predictions", count=config.samples)
    return metrics
