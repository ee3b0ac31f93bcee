"""Two CPU processes: the same weights on both, every validation image once, and launches that go wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import QUICK, hfseg
from launches import HFSEG_SCRIPT, assert_close_weights, launch, torchrun, train
from safetensors.torch import load_file

from hfseg.data import DemoConfig
from hfseg.engine.capture import load_capture
from hfseg.models import SegformerModelConfig, open_model, save_model
from hfseg.recipes.run import RunFolder

CONFIG = """
data: {kind: demo}
model: {kind: segformer, backbone: mit-b0, pretrained: none}
augment: {crop_size: 64}
loader: {batch_size: 4, eval_batch_size: 5, workers: 1}
optim: {lr: 1.0e-3}
train: {steps: 4, eval_every: 2, log_every: 1}
"""


IMAGE = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
TWENTY_STEPS = """
data: {kind: demo}
model: {kind: segformer, backbone: mit-b0, pretrained: none}
augment: {crop_size: 64}
loader: {eval_batch_size: 5, workers: 0}
freeze: {modules: [decode_head.batch_norm]}
optim: {lr: 1.0e-3, clip_norm: 1.0, ema_decay: 0.9}
train: {steps: 20, eval_every: 20, checkpoint_every: 7, keep_checkpoints: 9, log_every: 5}
verify_data: false
"""


LORA = """
data: {kind: demo}
model: {kind: checkpoint, checkpoint: BASE}
adapter: {kind: lora, rank: 4, save: adapters}
augment: {crop_size: 64}
loader: {eval_batch_size: 5, workers: 0}
freeze: {modules: [decode_head.batch_norm]}
optim: {name: adam, weight_decay: 0.1, lr: 3.0e-4, clip_norm: 1.0, ema_decay: 0.9}
train: {steps: 8, eval_every: 8, checkpoint_every: 8, log_every: 4}
verify_data: false
"""
"""Decay is a part of the gradient here, so that none is so small that rounding decides where Adam goes."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process on six images a step: the settings, and the run."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "config.yaml").write_text(TWENTY_STEPS)
    train(1, folder / "config.yaml", folder / "run")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_twenty_steps_of_several_processes_give_the_weights_of_one_on_the_same_images(tmp_path, alone, count):
    train(count, alone / "config.yaml", tmp_path / "run")
    for name in ("last/model.safetensors", "checkpoints/step-000020/model.safetensors"):
        assert_close_weights(tmp_path / "run" / name, alone / "run" / name, atol=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"event": "start", "step": 0, "processes": count, "sharding": "none", "batch_norms": "1, frozen"}


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_and_in_three(tmp_path, alone):
    train(2, alone / "config.yaml", tmp_path / "run", "--end-at", "12")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000007"]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for count, folder in ((1, "run"), (3, "again")):
        train(count, alone / "config.yaml", tmp_path / folder, "--resume")
        last = Path(folder, "last", "model.safetensors")
        assert_close_weights(tmp_path / last, alone / "run" / "last" / "model.safetensors", atol=1e-5)


@pytest.mark.slow
def test_a_bad_loss_in_one_process_keeps_the_weights_of_all_as_they_were(tmp_path, alone):
    train(2, alone / "config.yaml", tmp_path / "run", "--poison", "7")
    said = [(tmp_path / "run" / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith("loss is nan at step 8: ")
    capture, weights = load_capture(tmp_path / "run" / "nan" / "step-000008")
    assert (capture.breakdown.rank, capture.world_size, len(capture.breakdown.ids)) == (1, 2, 3)
    before = load_file(tmp_path / "run" / "checkpoints" / "step-000007" / "model.safetensors")
    assert all(torch.equal(weights[name], before[name]) for name in before)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """One process that trains adapters of a model folder: the settings, and the run."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapted")
    labels = DemoConfig().open("train").labels
    torch.manual_seed(0)
    save_model(SegformerModelConfig(backbone="mit-b0", pretrained="none").build(labels), labels, folder / "base")
    (folder / "config.yaml").write_text(LORA.replace("BASE", str(folder / "base")))
    train(1, folder / "config.yaml", folder / "run")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_adapters_trained_by_two_processes_are_those_of_one_on_the_same_images(tmp_path, adapted, sharding):
    train(2, adapted / "config.yaml", tmp_path / "run", f"runtime.sharding={sharding}")
    for name in ("last/adapters", "best-miou/adapters", "checkpoints/step-000008/model"):
        one, other = (run / f"{name}.safetensors" for run in (tmp_path / "run", adapted / "run"))
        assert_close_weights(one, other, atol=1e-5)
    base, _ = open_model(adapted / "base")
    found, wanted = (open_model(run / "last")[0](IMAGE).logits for run in (tmp_path / "run", adapted / "run"))
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, base(IMAGE).logits, atol=1e-3)


@pytest.mark.slow
def test_two_processes_agree_on_the_largest_batch_that_both_can_hold(tmp_path):
    torchrun(2, str(Path(__file__).with_name("ranks_largest.py")), str(tmp_path))
    assert [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)] == ["4", "4"]


@pytest.mark.slow
def test_a_run_of_two_processes_finds_its_batch_and_trains_as_if_it_had_been_given(tmp_path):
    sets = ("--set", "train.eval_every=2", "--set", "train.checkpoint_every=2", "--steps", "2")
    for name, more in {
        "found": ("--batch-size", "1", "--set", "train.accumulation=4", "--set", "optim.auto_batch=true"),
        "given": ("--batch-size", "4"),
    }.items():
        torchrun(2, HFSEG_SCRIPT, "finetune", *QUICK, *sets, *more, "--output", str(tmp_path / name))
    found = RunFolder(tmp_path / "found").settings()
    assert (found.loader.batch_size, found.train.accumulation) == (4, 1)
    assert_close_weights(*(tmp_path / name / "last/model.safetensors" for name in ("found", "given")), atol=0)


@pytest.mark.slow
def test_two_processes_try_learning_rates_together(tmp_path):
    done = torchrun(2, HFSEG_SCRIPT, "lr", *QUICK, "--tries", "12", "--json", "--output", str(tmp_path / "lr.png"))
    assert len(json.loads(done.stdout)["losses"]) == 12
    sharded = torchrun(2, HFSEG_SCRIPT, "lr", *QUICK, "--tries", "12", "--json", "--set", "runtime.sharding=fsdp")
    assert json.loads(sharded.stdout)["losses"] == pytest.approx(json.loads(done.stdout)["losses"], rel=1e-4)
    assert "there is one process" in hfseg("lr", *QUICK, "--set", "runtime.sharding=fsdp", code=2).stderr


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    script = str(Path(__file__).with_name("ranks.py"))
    torchrun(2, script, str(tmp_path / "two"), str(tmp_path / "config.yaml"))
    zero, one = (json.loads((tmp_path / "two" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert zero["world_size"] == one["world_size"] == 2
    assert zero["weights"] == one["weights"]
    assert not {name for ids in zero["trained"] for name in ids} & {name for ids in one["trained"] for name in ids}
    assert sorted(zero["seen"] + one["seen"]) == sorted(set(zero["seen"] + one["seen"]))
    assert len(zero["seen"] + one["seen"]) == zero["images"] == 12
    alone = json.loads(
        hfseg(
            "evaluate",
            tmp_path / "two" / "last",
            "--dataset",
            "demo",
            "--json",
            "--set",
            "loader.eval_batch_size=5",
            "-o",
            tmp_path / "alone",
        ).stdout
    )
    assert alone["confusion"] == zero["confusion"] == one["confusion"]
    assert alone["loss"] == zero["loss"] == one["loss"]


@pytest.mark.slow
def test_the_command_runs_under_torchrun(tmp_path):
    command = ("finetune", *QUICK, "--steps", "2", "--output", str(tmp_path / "run"))
    launch("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "hfseg", *command)
    assert json.loads((tmp_path / "run" / "env.json").read_text())["processes"] == "2"
    done = hfseg("finetune", "--output", tmp_path / "run", "--resume", code=2)
    assert "was started with 2 processes: got 1; a step took 2 x 4 x 1 = 8 images, and would take 1 x 4 x 1 = 4" in (
        " ".join(done.stderr.split())
    )
    assert "so that 1 x both is 8 (8 on each)" in " ".join(done.stderr.split())
    hfseg("finetune", "--output", tmp_path / "run", "--resume", "--set", "train.accumulation=2")
    resumed = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()][-1]
    assert resumed["event"] == "resume"
    assert resumed["processes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", ["flags", "config file"])
def test_a_launch_that_starts_one_process_instead_of_two_is_an_error(tmp_path, way):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmixed_precision: 'no'\nnum_machines: 1\n"
        "num_processes: 2\nuse_cpu: true\nmachine_rank: 0\nmain_training_function: main\n"
    )
    how = ["--cpu", "--num_processes", "2"] if way == "flags" else ["--config_file", str(config)]
    done = launch(
        "accelerate", "launch", *how, "-m", "hfseg", "finetune", *QUICK, "--output", str(tmp_path / "run"), code=1
    )
    assert "several processes were asked for" in done.stderr
    assert not (tmp_path / "run").exists()
