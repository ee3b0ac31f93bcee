"""Learning rates and weight decay groups, against their definitions."""

import math
import warnings

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

from hfseg.engine.optim import OptimConfig, carry_over, decays
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
        self.layer_scale_parameter = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_norms_biases_and_position_tables_do_not_decay():
    net = Net()
    decayed, undecayed = OptimConfig().groups(net)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    assert [id(parameter) for parameter in decayed["params"]] == [id(net.conv.weight)]
    assert len(undecayed["params"]) == 8
    assert not any(parameter is net.frozen for parameter in undecayed["params"])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("convnext", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]}),
        ("convnextv2", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]}),
        ("swinv2", {"depths": [1, 1], "embed_dim": 8, "num_heads": [1, 1], "window_size": 2}),
        ("dinov2", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}),
        ("segformer", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1]}),
    ],
)
def test_of_real_encoders_only_weights_of_convolutions_and_linear_layers_decay(family, settings):
    with torch.device("meta"):
        model = AutoModel.from_config(CONFIG_MAPPING[family](**settings))
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    expected = {f"{name}.weight" for name, _ in layers if "position_bias" not in name}
    assert {name for name, parameter in model.named_parameters() if decays(name, parameter)} == expected


def test_every_trainable_parameter_is_in_one_group():
    net = Net()
    optimizer = OptimConfig(weight_decay=0.05).build(net)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in net.parameters() if parameter.requires_grad)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_the_first_step_is_that_of_the_definition(name):
    weight = nn.Parameter(torch.tensor([[2.0, -1.0]]))
    module = nn.ParameterDict({"weight": weight})
    optimizer = OptimConfig(name=name, lr=0.1, weight_decay=0.5).build(module)
    before, gradient = weight.detach().clone(), torch.tensor([[0.25, 3.0]])
    for _ in range(2):
        weight.grad = gradient.clone()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.0
    coupled = gradient + 0.5 * before
    expected = {
        "adamw": before * (1 - 0.1 * 0.5) - 0.1 * gradient.sign(),
        "adam": before - 0.1 * coupled.sign(),
        "sgd": before - 0.1 * coupled,
    }[name]
    assert torch.allclose(weight, expected, atol=1e-6)


def test_momentum_carries_the_last_step_on():
    weight = nn.Parameter(torch.zeros(1, 1))
    optimizer = OptimConfig(name="sgd", lr=1.0, weight_decay=0.0, momentum=0.5).build(nn.ParameterDict({"w": weight}))
    for gradient in (1.0, 0.0):
        weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    assert weight.item() == -1.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "sgd", "betas": (0.8, 0.9)}, r"`betas` has no effect on sgd: got \(0.8, 0.9\)"),
        ({"momentum": 0.5}, r"`momentum` has no effect on adamw: got 0.5"),
        ({"schedule": "cosine", "power": 0.9}, "`power` has no effect on the cosine schedule: got 0.9"),
        ({"gamma": 0.3}, "`gamma` has no effect on the poly schedule: got 0.3"),
        ({"layer_decay_by": "block", "head_lr": 10}, "`layer_decay_by` has no effect without `layer_decay`"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
    ],
)
def test_a_setting_that_does_nothing_or_harm_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**wrong)


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


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 333])
def test_parts_of_a_run_are_epochs(steps_per_epoch):
    optim = OptimConfig(lr=1.0, warmup_steps=0, schedule="multi-step", milestones=(0.5, 0.6), gamma=0.1)
    peer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(peer, milestones=[25, 30], gamma=0.1)
    for epoch in range(50):
        for step in (0, steps_per_epoch - 1):
            found = optim.lr_at(epoch * steps_per_epoch + step, 50 * steps_per_epoch)
            assert found == pytest.approx(schedule.get_last_lr()[0])
        peer.step()
        schedule.step()


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


def test_one_cycle_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=50, cycle_momentum=False)
        optim = OptimConfig(lr=0.1, schedule="one-cycle")
        for step in range(50):
            assert optim.lr_at(step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
            theirs.step() if step < 49 else None


def test_rates_shrink_with_depth_and_heads_have_their_own():
    net = Net()
    depths = {name: 3 for name, _ in net.named_parameters()} | {"conv.weight": 0, "conv.bias": 0, "norm.weight": 1}
    optim = OptimConfig(lr=1.0, layer_decay=0.5, head_lr=10, schedule="constant", warmup_steps=0)
    optimizer = optim.build(net, depths=depths)
    assert optim.set_lr(optimizer, 0, 10) == 1.0
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(net.conv.weight)] == rates[id(net.conv.bias)] == 0.125
    assert rates[id(net.norm.weight)] == 0.25
    assert rates[id(net.rpb)] == 10
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert (decay[id(net.conv.weight)], decay[id(net.conv.bias)]) == (0.01, 0.0)
    assert len(rates) == len([p for p in net.parameters() if p.requires_grad])
