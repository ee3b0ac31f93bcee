"""Started alone or by torchrun: trains without dropout on labels that ignore nothing.

Batch norms are frozen and every pixel counts, so that a step on some images has the same gradient however they are
dealt out to processes.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from hfseg.engine.checkpoint import load_newest
from hfseg.engine.loop import fit
from hfseg.engine.task import Task
from hfseg.errors import RunFailed
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.training import batches_per_epoch, build_model, check_sharding, make_task, open_data
from hfseg.values import Batch


def without_chance(task: Task) -> Task:
    """Give a task whose steps do not depend on who takes which image."""
    for module in task.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, SegformerDropPath):
            module.drop_prob = 0.0

    def augment(batch: Batch) -> Batch:
        changed = task.augment(batch)
        return replace(changed, labels=torch.where(changed.labels == 255, 0, changed.labels))

    return replace(task, augment=augment)


def ending(task: Task, number: int) -> Task:
    """Give a task whose process ends when it asks for batch `number`."""

    def batches(start: int) -> Iterator[Batch]:
        for place, batch in enumerate(task.batches(start), start):
            if place == number:
                raise SystemExit(0)
            yield batch

    return replace(task, batches=batches)


def poisoned(task: Task, number: int) -> Task:
    """Give a task whose loss is not a number in batch `number`; for the process that this is asked in."""
    count = itertools.count()

    def loss_fn(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        terms = task.loss_fn(model, batch)
        return {**terms, "total": terms["total"] * (torch.nan if next(count) == number else 1.0)}

    return replace(task, loss_fn=loss_fn)


def main() -> None:
    """Train as the options say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--end-at", type=int)
    parser.add_argument("--poison", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FinetuneConfig.load(yaml_path=options.config, sets=options.sets)
    runtime = config.runtime.start()
    check_sharding(config, runtime)
    runtime.on_main(lambda: options.folder.mkdir(parents=True, exist_ok=True))
    train, validation = open_data(config, runtime)
    task = without_chance(make_task(config, build_model(config, train, runtime), train, validation, runtime))
    if options.end_at is not None:
        task = ending(task, options.end_at)
    if options.poison is not None and runtime.rank == runtime.world_size - 1:
        task = poisoned(task, options.poison)
    plan = config.train.plan(batches_per_epoch(config, train, runtime))
    state = load_newest(options.folder / "checkpoints", warn=print) if options.resume else None
    try:
        fit(task, plan, config.optim, runtime, options.folder, state=state)
    except RunFailed as error:
        (options.folder / f"rank{runtime.rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main()
