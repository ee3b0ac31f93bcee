"""Learning rates and weight decay groups, against their definitions."""

import math

import pytest
import torch
from torch import nn

from hfseg.engine.optim import OptimConfig, carry_over, split_by_decay
from hfseg.engine.plan import TrainConfig
from hfseg.errors import ConfigError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.layernorm = nn.LayerNorm(4)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.rpb = nn.Parameter(torch.zeros(2, 3, 3))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_norms_biases_and_position_tables_do_not_decay():
    net = Net()
    decayed, undecayed = split_by_decay(net.named_parameters())
    assert decayed == [net.conv.weight]
    assert len(undecayed) == 7
    assert not any(parameter is net.frozen for parameter in undecayed)


def test_every_trainable_parameter_is_in_one_group():
    net = Net()
    optimizer = OptimConfig(weight_decay=0.05).build(net)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters() if parameter.requires_grad)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_warm_up_rises_linearly_and_poly_falls_to_zero():
    optim = OptimConfig(lr=1.0, warmup_steps=9, power=0.9)
    assert [optim.lr_at(step, 109) for step in (0, 4, 8)] == pytest.approx([0.1, 0.5, 0.9])
    assert optim.lr_at(9, 109) == 1.0
    assert optim.lr_at(59, 109) == pytest.approx(0.5**0.9)
    assert optim.lr_at(108, 109) == pytest.approx(0.01**0.9)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_schedules_start_at_the_peak_and_never_rise(schedule):
    optim = OptimConfig(lr=2.0, warmup_steps=0, schedule=schedule)
    rates = [optim.lr_at(step, 50) for step in range(50)]
    assert rates[0] == 2.0
    assert all(late <= early for early, late in zip(rates, rates[1:], strict=False))
    assert rates[25] == pytest.approx(
        {"poly": 1.0, "cosine": 2 * 0.5 * (1 + math.cos(math.pi / 2)), "constant": 2.0}[schedule]
    )


def test_multi_step_drops_after_its_milestones():
    optim = OptimConfig(lr=1.0, warmup_steps=0, schedule="multi-step", milestones=(0.5, 0.6), gamma=0.1)
    assert [optim.lr_at(step, 50) for step in (0, 24, 25, 29, 30, 49)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("wrong", [{"milestones": (0.5,)}, {"schedule": "multi-step"}])
def test_milestones_and_their_schedule_need_each_other(wrong):
    with pytest.raises(ValueError, match="belong to the multi-step schedule"):
        OptimConfig(**wrong)


def test_state_is_carried_over_by_parameter():
    net = Net()
    old = OptimConfig().build(net)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    old.step()
    net.frozen.requires_grad_(True)
    new = OptimConfig().build(net)
    carry_over(old, new)
    assert new.state[net.conv.weight]["exp_avg"] is old.state[net.conv.weight]["exp_avg"]
    assert net.frozen not in new.state


def test_epochs_become_steps():
    plan = TrainConfig(epochs=2.5, accumulation=2).plan(9)
    assert (plan.num_steps, plan.eval_every, plan.epoch(6)) == (10, 4, 1.5)
    assert [step for step in range(1, 11) if plan.validates(step)] == [4, 8, 10]


def test_a_stream_needs_steps():
    with pytest.raises(ConfigError, match=r"`train.steps` and `train.eval_every` are needed"):
        TrainConfig(epochs=3).plan(None)
    assert TrainConfig(steps=10, eval_every=5).plan(None).epoch(3) is None


def test_epochs_and_steps_exclude_each_other():
    with pytest.raises(ValueError, match="not both: got 1 epochs and 2 steps"):
        TrainConfig(epochs=1, steps=2)
