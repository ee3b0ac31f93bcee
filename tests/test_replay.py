"""A step that went wrong is done again: the very batch, the very random numbers, and the first bad module by name."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hfseg.engine.capture import Breakdown, Capture, load_capture, save_capture
from hfseg.errors import CheckpointError, RunFailed
from hfseg.recipes import finetune, replay
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.training import open_data, train_batches

CONFIG = {
    "data": {"kind": "demo"},
    "model": {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none"},
    "augment": {"crop_size": 64},
    "loader": {"batch_size": 2, "workers": 0},
    "train": {"steps": 3, "eval_every": 3, "checkpoint_every": 2, "log_every": 1},
    "runtime": {"cpu": True},
    "verify_data": False,
    "samples": 0,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    finetune.run(FinetuneConfig(**CONFIG, output=folder))
    return RunFolder(folder)


def ids_of(run, rank, world_size, start):
    config = run.settings()
    runtime = config.runtime.start()
    train, _ = open_data(config, runtime)
    source = train_batches(config, train, runtime, start=start, rank=rank, world_size=world_size)
    return next(iter(source)).ids


@pytest.mark.slow
def test_a_replayed_step_has_the_batch_the_dropout_and_the_loss_of_the_run(finished):
    weights = load_file(finished.checkpoints / "step-000002" / "model.safetensors")
    capture = Capture(Breakdown(3, "loss", 0.0, 0, 0, ()), seed=0, world_size=1, accumulation=1)
    save_capture(finished.path / "nan", capture, weights)
    found = replay.run(finished.path / "nan" / "step-000003" / "capture.json")
    logged = [json.loads(line) for line in (finished.path / "log.jsonl").read_text().splitlines()]
    third = next(line for line in logged if line["event"] == "train" and line["step"] == 3)
    assert found.where is None
    assert found.losses["total"] == third["loss"]
    assert found.ids == ids_of(finished, 0, 1, 2)
    assert 0 <= found.pixels[0] < found.pixels[1] <= 255
    assert sum(found.labels.values()) == pytest.approx(1)
    assert "everything was finite this time" in found.to_text()


@pytest.mark.slow
def test_the_first_module_that_is_not_finite_is_named(finished):
    """A weight is made so large that the module's product with its input is infinite in float32."""
    weights = load_file(finished.checkpoints / "step-000002" / "model.safetensors")
    name = "hf.decode_head.classifier.weight"
    weights[name] = torch.full_like(weights[name], 3e38)
    capture = Capture(Breakdown(3, "loss", float("nan"), 0, 0, ()), seed=0, world_size=1, accumulation=1)
    save_capture(finished.path / "nan", capture, weights)
    found = replay.run(finished.path / "nan" / "step-000003")
    assert found.where == f"output of `{name.removesuffix('.weight')}`"
    assert found.to_text().startswith("first not finite: output of `hf.decode_head.classifier`")
    weights[name][0] = torch.nan
    save_capture(finished.path / "nan", capture, weights)
    assert replay.run(finished.path / "nan" / "step-000003").where == f"weight `{name}`, before the step"


@pytest.mark.slow
def test_a_run_whose_rate_is_far_too_large_leaves_a_step_that_replays(tmp_path):
    config = FinetuneConfig(**{**CONFIG, "optim": {"lr": 1e30, "warmup_steps": 0}}, output=tmp_path / "run")
    with pytest.raises(RunFailed, match="is nan at step 2") as error:
        finetune.run(config)
    folder = tmp_path / "run" / "nan" / "step-000002"
    assert f"hfseg finetune --replay {folder}" in error.value.hint
    capture, weights = load_capture(folder)
    assert all(value.isfinite().all() for value in weights.values())
    found = replay.run(folder)
    assert found.ids == capture.breakdown.ids
    assert found.where is not None
    assert found.where.startswith("output of `hf.segformer")


def test_a_captured_step_must_lie_in_its_run(tmp_path):
    capture = Capture(Breakdown(3, "loss", float("nan"), 0, 0, ()), seed=0, world_size=1, accumulation=1)
    save_capture(tmp_path / "nan", capture, {"weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="lies in no run"):
        replay.run(tmp_path / "nan" / "step-000003")
