"""Started by test_xla.py: trains as a YAML says, and tells how often XLA compiled.

The counts are taken after every validation and at the end, so that the first stands for the first epoch.
"""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hfseg.engine.checkpoint import load_newest
from hfseg.engine.loop import fit
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.training import batches_per_epoch, build_model, make_task, open_data

torch.set_num_threads(1)
config = FinetuneConfig.load(yaml_path=Path(sys.argv[1]), flags={"output": sys.argv[2]})
folder, resume = RunFolder(config.output), "--resume" in sys.argv
runtime = config.runtime.start(config.output)
folder.check(config, runtime, resume=resume)
train, validation = open_data(config, runtime)
segmenter = build_model(config, train, runtime)
task = make_task(config, segmenter, train, validation, runtime)
state = load_newest(folder.checkpoints, warn=print) if resume else None
if not resume:
    folder.start(config, runtime)

compiled: list[int] = []
seconds: list[float] = []
scores: list[dict[str, Any]] = []


def note() -> None:
    seconds.append(time.perf_counter() - began)
    if runtime.device.type == "xla":
        from torch_xla.debug import metrics

        found = metrics.metric_data("CompileTime")
        compiled.append(found[0] if found else 0)


def validate() -> Mapping[str, Any]:
    scores.append({name: value for name, value in task.validate().items() if isinstance(value, float)})
    note()
    return scores[-1]


began = time.perf_counter()
plan = config.train.plan(batches_per_epoch(config, train, runtime))
fit(replace(task, validate=validate), plan, config.optim, runtime, config.output, state=state)
note()
fallbacks = {}
if runtime.device.type == "xla":
    from torch_xla.debug import metrics

    fallbacks = {name: metrics.counter_value(name) for name in metrics.counter_names() if name.startswith("aten::")}
print(
    json.dumps(
        {
            "device": runtime.device.type,
            "compiled": compiled,
            "seconds": seconds,
            "scores": scores,
            "fallbacks": fallbacks,
        }
    )
)
