"""What training is made of: data, model, and the task that the loop is given."""

from collections.abc import Iterable
from typing import Any

import torch

from hfseg.config import leaves
from hfseg.data import ClipSettings, DataConfig, Photometric, Skips, StreamDataset, TableDataset, train_loader
from hfseg.engine.auto_batch import largest_batch
from hfseg.engine.evaluation import Evaluation
from hfseg.engine.runtime import Runtime
from hfseg.engine.task import Task
from hfseg.errors import ConfigError
from hfseg.losses import Loss
from hfseg.metrics import Scores
from hfseg.models import (
    CheckpointModelConfig,
    ModelConfig,
    Segmenter,
    TmanetModelConfig,
    adapt,
    freeze,
    parameter_table,
    save_model,
    trains_adapters,
)
from hfseg.recipes.console import say, show_parameters, show_start
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.scoring import AnyDataset, verify_on_main
from hfseg.recipes.subjects import ModelSubject, count_over
from hfseg.recipes.teacher import Teacher, make_objective, open_teacher
from hfseg.values import Batch


def memory_frames(model: ModelConfig) -> int:
    """Count the frames before an image that a model is shown with it; 0 for a model of single images."""
    return model.memory_frames if isinstance(model, TmanetModelConfig | CheckpointModelConfig) else 0


def memory_step(data: DataConfig) -> int:
    """Count the frames from each frame of a clip to the next; 1 for data without clips."""
    return data.frame_step if isinstance(data, ClipSettings) else 1


def idle_clip_settings(config: FinetuneConfig) -> dict[str, Any]:
    """Find the settings of clips that do nothing because the model has no memory: their defaults by dotted key."""
    defaults = {"data.frame_step": 1, "augment.clip_photometric": "frame"}
    values = dict(leaves(config.model_dump(mode="json")))
    set_otherwise = {key: default for key, default in defaults.items() if values.get(key, default) != default}
    return set_otherwise if set_otherwise and not memory_frames(config.model) else {}


def check_clips(config: FinetuneConfig) -> None:
    """Refuse settings of clips where the model is shown single images.

    Raises:
        ConfigError: there are some.
    """
    idle = idle_clip_settings(config)
    if idle:
        raise ConfigError(
            f"`{min(idle)}` has no effect: the model is shown single images",
            hint="leave it out, or take a model with memory: --decoder tmanet",
        )


def open_data(config: FinetuneConfig, runtime: Runtime) -> tuple[AnyDataset, AnyDataset]:
    """Open the training and validation parts, and look at every file of them where that was asked for.

    A model with memory is given clips.

    Raises:
        ConfigError: settings of clips do nothing, or the data does not know which frames come before an image.
        DataError: files cannot be used.
    """
    check_clips(config)
    count = memory_frames(config.model)
    train, validation = config.data.open("train").clips(count), config.data.open("validation").clips(count)
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


def check_sharding(config: FinetuneConfig, runtime: Runtime, *, is_rehearsal: bool = False) -> None:
    """Refuse what sharded weights cannot do, before anything is written; in a rehearsal one process stands for several.

    Raises:
        ConfigError: there is one process, or the settings ask for something that needs whole weights.
    """
    if config.runtime.sharding == "none":
        return
    reasons = {
        "there is one process": runtime.world_size == 1 and not is_rehearsal,
        "`freeze.until_step` sets weights free that are sharded as frozen": config.freeze.until_step is not None,
        "`optim.auto_batch` tries whole weights": config.optim.auto_batch,
        "`optim.name=sgd` has no fused step for them": config.optim.name == "sgd",
        "`runtime.precision=fp16` scales gradients; bf16 does not": config.runtime.precision == "fp16",
    }
    found = [reason for reason, is_so in reasons.items() if is_so]
    if found:
        raise ConfigError(
            f"weights cannot be sharded here: {'; '.join(found)}", hint="leave out `runtime.sharding=fsdp`, or that"
        )


def build_model(config: FinetuneConfig, train: AnyDataset, runtime: Runtime) -> Segmenter:
    """Build the model for the data's classes, freeze what was asked for, and show what is trained.

    Raises:
        HfsegError: the model cannot be had or trained so.
    """
    torch.manual_seed(config.seed)
    segmenter = config.model.build(train.labels, crop=config.augment.crop)
    if segmenter.memory_frames:
        segmenter.hf.config.memory_step = memory_step(config.data)  # a stream is read as the clips were
    if runtime.is_main:
        show_start(segmenter)
    if runtime.config.gradient_checkpointing:
        segmenter.enable_gradient_checkpointing()
    adapt(segmenter, config.adapter)
    freeze(segmenter, config.freeze.patterns(0))
    if config.adapter.kind != "none" and not (config.freeze.steps or trains_adapters(segmenter)):
        raise ConfigError(
            f"`adapter.kind` has no effect: `freeze.modules` freezes its matrices too: got {config.adapter.kind} and "
            f"{','.join(config.freeze.modules)}",
            hint="leave out --freeze: the adapter keeps the encoder's own weights as they are",
        )
    segmenter.check_train_batch(config.loader.batch_size)
    if runtime.is_main:
        show_parameters(parameter_table(segmenter))
    runtime.ready(segmenter)
    return segmenter


def train_batches(
    config: FinetuneConfig,
    train: AnyDataset,
    runtime: Runtime,
    *,
    start: int,
    rank: int,
    world_size: int,
    skips: Skips | None = None,
) -> Iterable[Batch]:
    """Read the training batches of one process, without end, from number `start` on."""
    return train_loader(
        train,
        config.augment,
        config.loader,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        start_step=start,
        pin_memory=runtime.device.type == "cuda",
        skips=skips,
    )


def make_task(
    config: FinetuneConfig,
    segmenter: Segmenter,
    train: AnyDataset,
    validation: AnyDataset,
    runtime: Runtime,
    *,
    teacher: Teacher | None = None,
) -> Task:
    """Wire data, model, loss and scores into what the loop trains; the config's teacher is opened unless it is given.

    Raises:
        HfsegError: the teacher cannot be had, or does not fit.
    """
    space, skips = train.labels, Skips()
    loss = build_loss(config, train)
    objective = make_objective(config, segmenter, loss, teacher or open_teacher(config, train, runtime), runtime)
    subject = ModelSubject(segmenter, config.protocol, loss)
    base = config.model if config.adapter.save == "adapters" else None

    return Task(
        model=objective.model,
        batches=lambda start: train_batches(
            config, train, runtime, start=start, rank=runtime.rank, world_size=runtime.world_size, skips=skips
        ),
        augment=Photometric(config.augment),
        loss_fn=objective.loss_fn,
        validate=lambda: _scores(count_over(subject, validation, config.loader, runtime)),
        export=lambda directory: save_model(segmenter, space, directory, base=base),
        unfreeze=lambda step: freeze(segmenter, config.freeze.patterns(step)),
        seed=config.seed,
        depths=objective.depths,
        left_out=skips.take if config.loader.on_error == "skip" else None,
        unfreeze_steps=config.freeze.steps,
    )


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """Give what a validation logs."""
    scores = Scores.from_confusion(evaluation.totals["confusion"])
    names = ("mean_iou", "mean_accuracy", "overall_accuracy", "per_category_iou")
    return {"loss": evaluation.loss, **{name: getattr(scores, name) for name in names}}


def with_largest_batch(config: FinetuneConfig, task: Task, least: int, runtime: Runtime) -> FinetuneConfig:
    """Replace the batch size by the largest that the device holds, with as many images in a step as before.

    Everything that is set free later is free in the trials. `least` images are needed in a batch.
    """
    images = config.loader.batch_size * config.train.accumulation
    if task.unfreeze_steps:
        task.unfreeze(task.unfreeze_steps[-1])
    found = largest_batch(task, config.optim, runtime, images=images, least=least)
    task.unfreeze(0)
    if runtime.is_main:
        say(f"batches of {found} images, {images // found} to a step")
    loader = config.loader.model_copy(update={"batch_size": found})
    train = config.train.model_copy(update={"accumulation": images // found})
    return config.model_copy(update={"loader": loader, "train": train})


def build_loss(config: FinetuneConfig, train: AnyDataset) -> Loss:
    """Make the loss; where its weights depend on how frequent the classes are, the training masks are counted."""
    pixels = None
    if config.loss.needs_class_pixels and isinstance(train, TableDataset):
        pixels = train.class_counts.sum(0).tolist()
    return config.loss.build(ignore_index=train.labels.ignore_index, names=train.labels.names, class_pixels=pixels)
