"""Weights sharded over two CPU processes: the same as whole ones, saved, resumed, exported and validated."""

import json
import shutil

import pytest
import torch
from launches import assert_close_weights, train
from test_processes import TWENTY_STEPS
from torch import nn

from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.sharding import parts
from hfseg.errors import ConfigError
from hfseg.models import open_model
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.training import check_sharding

FSDP = ("runtime.sharding=fsdp", "train.eval_every=6")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The settings, a run in one process, and one whose weights are sharded over two."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.yaml").write_text(TWENTY_STEPS)
    train(1, folder / "config.yaml", folder / "alone", "train.eval_every=6")
    train(2, folder / "config.yaml", folder / "sharded", *FSDP)
    return folder


@pytest.mark.slow
def test_twenty_sharded_steps_give_the_weights_the_norms_and_the_models_of_one_process(runs):
    """The twelve validation images are three batches, so that one process has one more than the other."""
    files = ("last", "best-miou", "best-loss", "checkpoints/step-000007", "checkpoints/step-000020")
    for name in files:
        one, other = (runs / run / name / "model.safetensors" for run in ("sharded", "alone"))
        assert_close_weights(one, other, atol=1e-5)
    for name in ("average", "optimizer"):
        one, other = (runs / run / "checkpoints/step-000020" / f"{name}.safetensors" for run in ("sharded", "alone"))
        assert_close_weights(one, other, atol=1e-5)
    found, wanted = (records(runs / run) for run in ("sharded", "alone"))
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for line, other in zip(found, wanted, strict=True):
        keys = {"loss", "grad_norm", "mean_iou"} & other.keys()
        assert {key: line[key] for key in keys} == pytest.approx({key: other[key] for key in keys}, rel=1e-4)
    model, _ = open_model(runs / "sharded" / "last")
    assert model(torch.zeros(1, 3, 64, 64)).logits.isfinite().all()


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] in ("train", "validation")]


@pytest.mark.slow
def test_a_sharded_run_goes_on_bit_for_bit_and_in_one_process_with_whole_weights(tmp_path, runs):
    train(2, runs / "config.yaml", tmp_path / "cut", *FSDP, "--end-at", "12")
    shutil.copytree(tmp_path / "cut", tmp_path / "whole")
    train(2, runs / "config.yaml", tmp_path / "cut", *FSDP, "--resume")
    train(1, runs / "config.yaml", tmp_path / "whole", "train.eval_every=6", "--resume")
    for name in ("last/model", "checkpoints/step-000020/model", "checkpoints/step-000020/optimizer"):
        wanted = runs / "sharded" / f"{name}.safetensors"
        assert_close_weights(tmp_path / "cut" / f"{name}.safetensors", wanted, atol=0)
        assert_close_weights(tmp_path / "whole" / f"{name}.safetensors", wanted, atol=1e-5)


def test_what_sharded_weights_cannot_do_is_refused_at_once():
    settings = {"runtime": {"cpu": True, "sharding": "fsdp"}, "optim": {"name": "sgd"}, "freeze": {"until_step": 5}}
    config = FinetuneConfig(**{**settings, "freeze": {"modules": ["backbone"], "until_step": 5}})
    with pytest.raises(ConfigError, match="there is one process.*until_step.*sgd"):
        check_sharding(config, RuntimeConfig(cpu=True, sharding="fsdp").start())
    check_sharding(FinetuneConfig(), RuntimeConfig(cpu=True).start())


def test_parts_are_members_of_lists_that_are_large_enough_inner_ones_first():
    first, second = (nn.Sequential(nn.Linear(10, 10), nn.Linear(3, 3)) for _ in range(2))
    model = nn.Module()
    model.encoder = nn.Linear(20, 20)
    model.stages = nn.ModuleList([nn.ModuleList([first, second]), nn.ModuleList([nn.Linear(2, 2)])])
    assert parts(model, least=100) == [first[0], second[0]]
    assert parts(model, least=112) == [first, second]
    assert parts(model, least=200) == []
