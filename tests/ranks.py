"""Started by torchrun in test_processes.py: trains a little, and says what this process ended with."""

import hashlib
import json
import sys
from pathlib import Path

import torch

from hfseg.data import eval_loader, train_loader
from hfseg.engine.loop import fit
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.subjects import ModelSubject, count_over
from hfseg.recipes.training import build_model, make_task, open_data

torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = FinetuneConfig.load(yaml_path=Path(sys.argv[2]), flags={"output": str(folder)})
runtime = config.runtime.start(folder)
runtime.on_main(lambda: folder.mkdir(parents=True))
train, validation = open_data(config, runtime)
segmenter = build_model(config, train, runtime)
plan = config.train.plan(12 // runtime.world_size)
trained = [
    batch.ids
    for batch, _ in zip(
        train_loader(train, config.augment, config.loader, seed=0, rank=runtime.rank, world_size=runtime.world_size),
        range(3),
        strict=False,
    )
]
fit(make_task(config, segmenter, train, validation, runtime), plan, config.optim, runtime, folder, state=None)
subject = ModelSubject(segmenter, config.protocol, config.loss.build(ignore_index=train.labels.ignore_index))
found = count_over(subject, validation, config.loader, runtime)
seen = [
    name
    for batch in eval_loader(
        validation,
        config.loader,
        short_side=config.augment.short_side,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
    for name in batch.ids
]
digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in segmenter.state_dict().values())).hexdigest()
said = {
    "rank": runtime.rank,
    "world_size": runtime.world_size,
    "weights": digest,
    "trained": trained,
    "seen": seen,
    "images": len(found.ids),
    "loss": found.loss,
    "confusion": found.totals["confusion"].tolist(),
}
(folder / f"rank{runtime.rank}.json").write_text(json.dumps(said))
