"""The loop on a tiny model: resuming, accumulation, stopping, and losses that are not finite."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F

from hfseg.engine.capture import load_capture
from hfseg.engine.checkpoint import load_newest
from hfseg.engine.evaluation import evaluate
from hfseg.engine.inference import WholeConfig
from hfseg.engine.loop import fit
from hfseg.engine.optim import OptimConfig
from hfseg.engine.plan import TrainConfig
from hfseg.engine.runtime import RuntimeConfig, check_launch
from hfseg.engine.task import Task
from hfseg.engine.trainable import Trainable
from hfseg.errors import CheckpointError, LaunchError, RunFailed, RunInterrupted
from hfseg.values import Batch, Counts, SegOutput


class Tiny(nn.Module):
    """A convolution with batch norm and dropout, so that buffers and random numbers matter."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 2, 1))

    def forward(self, pixel_values):
        return SegOutput(self.net(pixel_values.float() / 255))


def batch(number: int, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (size, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Batch(images, (images[:, 0] > 127).to(torch.uint8), tuple(f"{number}-{i}" for i in range(size)))


def endless(start: int):
    while True:
        yield batch(start)
        start += 1


def loss_fn(model, given: Batch):
    logits = F.interpolate(model(given.pixel_values).logits, size=(8, 8))
    return {"ce": (loss := F.cross_entropy(logits, given.labels.long())), "total": loss}


def count(pred, labels):
    return Counts({"matrix": torch.bincount(labels.flatten().long() * 2 + pred.flatten(), minlength=4).view(2, 2)}, {})


def train(folder: Path, *, steps: int = 8, resume: bool = False, **changes) -> nn.Module:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    model = Tiny()
    runtime = RuntimeConfig(cpu=True).start()

    def validate():
        found = evaluate(
            model,
            [batch(1000)],
            protocol=WholeConfig(),
            count=count,
            criterion=lambda output, labels: loss_fn(lambda _: output, batch(1000)),
            runtime=runtime,
        )
        matrix = found.totals["matrix"]
        accuracy = float(matrix.diag().sum() / matrix.sum())
        return {"loss": found.loss, "mean_iou": accuracy, "overall_accuracy": accuracy}

    options = dict(
        model=model,
        batches=endless,
        augment=lambda given: given,
        loss_fn=loss_fn,
        validate=validate,
        export=lambda directory: torch.save(model.state_dict(), directory / "weights.pt"),
        unfreeze=lambda step: None,
        seed=5,
    )
    rhythm = {"steps": steps, "eval_every": 4, "checkpoint_every": 3, "log_every": 1, **changes.pop("train", {})}
    plan = TrainConfig(**rhythm).plan(10)
    state = load_newest(folder / "checkpoints", warn=print) if resume else None
    optim = changes.pop("optim", OptimConfig(lr=0.01))
    fit(Task(**(options | changes)), plan, optim, runtime, folder, state=state)
    return model


def records(folder: Path) -> list[dict]:
    noise = {"seconds", "images_per_s", "data_wait", "peak_memory_mb"}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in noise} for line in lines if line["event"] != "resume"]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Stopped(Exception):
    pass


def stopping_at(number: int):
    """Batches of a run that dies when it asks for batch `number`."""

    def batches(start: int):
        for place, given in zip(range(start, number), endless(start), strict=False):
            yield given
        raise Stopped

    return batches


@pytest.mark.many
@pytest.mark.parametrize("died_at", [2, 5, 7])
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, died_at):
    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", batches=stopping_at(died_at))
    resumed = train(tmp_path / "cut", resume=True)
    assert same(whole, resumed)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    for name in ("best-miou", "best-loss", "last"):
        one, other = (torch.load(tmp_path / run / name / "weights.pt") for run in ("whole", "cut"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_runs_repeat_bit_for_bit_and_learn(tmp_path):
    one, two = train(tmp_path / "a"), train(tmp_path / "b")
    assert same(one, two)
    losses = [line["loss"] for line in records(tmp_path / "a") if line["event"] == "validation"]
    assert losses[-1] < losses[0]


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    class Plain(Tiny):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 2, 1))

    def large(start):
        while True:
            parts = [batch(2 * start), batch(2 * start + 1)]
            yield Batch(
                torch.cat([p.pixel_values for p in parts]),
                torch.cat([p.labels for p in parts]),
                parts[0].ids + parts[1].ids,
            )
            start += 1

    models = []
    for name, changes in {"small": {"train": {"accumulation": 2}}, "large": {"batches": large}}.items():
        torch.manual_seed(0)
        model = Plain()
        train(tmp_path / name, model=model, **changes)
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path):
    def poisoned(model, given):
        terms = loss_fn(model, given)
        return {**terms, "total": terms["total"] * (float("nan") if given.ids[0] == "6-0" else 1)}

    with pytest.raises(RunFailed, match="loss is nan at step 7: the batch holds `6-0`, `6-1`") as error:
        train(tmp_path, loss_fn=poisoned)
    assert "step-000006" in error.value.hint
    kept = load_newest(tmp_path / "checkpoints", warn=print)
    assert all(torch.isfinite(value).all() for value in kept.model.values())


def nan_loss(model, given):
    terms = loss_fn(model, given)
    return {**terms, "total": terms["total"] * (float("nan") if given.ids[0] == "6-0" else 1)}


def nan_gradient(model, given):
    output = model(given.pixel_values).logits
    if given.ids[0] == "6-0":
        output.register_hook(lambda gradient: gradient * float("nan"))
    return loss_fn(lambda _: SegOutput(output), given)


@pytest.mark.many
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (nan_loss, "loss is nan at step 7: "),
        (nan_gradient, "gradient norm is nan at step 7, though the loss is finite"),
    ],
)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_weights_and_statistics_before_a_step_that_went_wrong_are_kept(tmp_path, broken, said, name):
    optim = OptimConfig(lr=0.01, name=name, ema_decay=0.9)
    torch.manual_seed(1)
    before = Tiny()
    with pytest.raises(Stopped):
        train(tmp_path / "cut", model=before, batches=stopping_at(6 + 1), optim=optim)  # one is fetched ahead
    rarely = {"log_every": 50, "eval_every": 50, "checkpoint_every": 50}
    with pytest.raises(RunFailed, match=said) as error:
        train(tmp_path / "bad", loss_fn=broken, optim=optim, train=rarely)
    assert f"--replay {tmp_path / 'bad' / 'nan' / 'step-000007'}" in error.value.hint
    capture, weights = load_capture(tmp_path / "bad" / "nan" / "step-000007")
    assert (capture.seed, capture.world_size, capture.accumulation, capture.ranks) == (5, 1, 1, (0,))
    assert (capture.breakdown.micro, capture.breakdown.ids) == (0, ("6-0", "6-1"))
    assert all(torch.equal(value, weights[key]) for key, value in before.state_dict().items())
    assert not (tmp_path / "bad" / "checkpoints").exists()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_optimizers_leave_out_steps_by_themselves_from_a_bad_loss_on(name):
    trainable = Trainable(Tiny(), OptimConfig(lr=0.01, name=name), RuntimeConfig(cpu=True).start())
    for group in trainable.optimizer.param_groups:
        group["fused"] = True
    seen = []
    for number, factor in enumerate([1.0, 1.0, float("inf"), 1.0]):

        def scaled(model, given, factor=factor):
            return {name: value * factor for name, value in loss_fn(model, given).items()}

        trainable.take_step(number, iter([batch(number)]), lambda given: given, scaled, count=1)
        seen.append({key: value.clone() for key, value in trainable.model.named_parameters()})
    assert not torch.equal(seen[0]["net.0.weight"], seen[1]["net.0.weight"])
    assert all(torch.equal(seen[1][key], later[key]) for later in seen[2:] for key in later)


def test_records_hold_terms_norm_speed_and_memory_without_clipping(tmp_path):
    norms = []

    def watching(model, given):
        torch.manual_seed(0)
        terms = loss_fn(model, given)
        gradients = torch.autograd.grad(terms["total"], list(model.parameters()))
        norms.append(float(torch.stack([part.norm() for part in gradients]).norm()))
        torch.manual_seed(0)
        return loss_fn(model, given)

    train(tmp_path, loss_fn=watching, train={"log_every": 4, "checkpoint_every": 4})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["event"] == "train"]
    assert [line["step"] for line in found] == [4, 8]
    assert found[0]["grad_norm"] == pytest.approx(sum(norms[:4]) / 4, rel=1e-4)
    assert found[1]["grad_norm"] == pytest.approx(sum(norms[4:]) / 4, rel=1e-4)
    for line in found:
        assert line["ce"] == line["loss"]
        assert line["images_per_s"] > 0
        assert 0 <= line["data_wait"] < 1
        assert 50 < line["peak_memory_mb"] < 100_000
    assert lines[0] == {
        "event": "start", "step": 0, "processes": 1, "sharding": "none", "batch_norms": "1, over the batch"
    }  # fmt: skip


@pytest.mark.many
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(tmp_path, sent, code):
    def killing(start):
        for number, given in enumerate(endless(start), start):
            if number == 4:
                os.kill(os.getpid(), sent)
            yield given

    whole = train(tmp_path / "whole")
    with pytest.raises(RunInterrupted, match=f"stopped by {sent.name} after step") as error:
        train(tmp_path / "cut", batches=killing)
    assert error.value.exit_code == code
    assert "--resume" in error.value.hint
    assert same(whole, train(tmp_path / "cut", resume=True))


@pytest.mark.slow
def test_weights_are_set_free_at_their_step_also_after_a_resume(tmp_path):
    def run(folder, **changes):
        torch.manual_seed(1)
        model = Tiny()
        first = model.net[0]
        first.requires_grad_(False)
        start = first.weight.clone()
        seen = []

        def watching(wrapped, given):
            seen.append(torch.equal(first.weight, start))
            return loss_fn(wrapped, given)

        options = dict(
            model=model, loss_fn=watching, unfreeze=lambda step: first.requires_grad_(step >= 4), unfreeze_steps=(4,)
        )
        try:
            train(folder, **(options | changes))
        except Stopped:
            pass
        return model, seen

    whole, seen = run(tmp_path / "whole")
    assert seen == [True] * 5 + [False] * 3
    run(tmp_path / "cut", batches=stopping_at(7))
    resumed, _ = run(tmp_path / "cut", resume=True)
    assert same(whole, resumed)


def test_a_launch_that_lost_its_processes_is_refused():
    launched = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}
    with pytest.raises(LaunchError, match="several processes were asked for"):
        check_launch(launched)
    check_launch({**launched, "WORLD_SIZE": "2"})
    check_launch({})
    with pytest.raises(LaunchError, match="`runtime.num_processes` is 3: got 1 running"):
        RuntimeConfig(cpu=True, num_processes=3).start()


def test_sharding_is_asked_for_by_a_setting_only():
    with pytest.raises(LaunchError, match="sharding is a setting of the run") as error:
        check_launch({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"})
    assert "runtime.sharding=fsdp" in error.value.hint


def test_what_is_no_capture_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no step that went wrong"):
        load_capture(tmp_path)


def test_an_unknown_tracker_is_refused():
    with pytest.raises(LaunchError, match="tracker `notebook` is not installed or not known"):
        RuntimeConfig(cpu=True, trackers=("notebook",)).start()


@pytest.fixture
def fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerator")
def test_half_precision_floats_need_a_gpu():
    with pytest.raises(LaunchError, match="`fp16` needs a GPU"):
        RuntimeConfig(cpu=True, precision="fp16").start()


@pytest.mark.slow
def test_averaged_weights_are_those_of_a_plain_loop_and_survive_a_resume(tmp_path):
    def run(folder, **changes):
        seen = []

        def watching(wrapped, given):
            seen.append({k: v.clone() for k, v in wrapped.state_dict().items()})
            return loss_fn(wrapped, given)

        try:
            model = train(folder, optim=OptimConfig(lr=0.01, ema_decay=0.6), loss_fn=watching, **changes)
        except Stopped:
            return None, seen
        return model, seen

    model, seen = run(tmp_path / "whole")
    average = {name: value.clone().double() for name, value in seen[0].items()}
    for step, weights in enumerate([*seen[1:], model.state_dict()], start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name].double() for name in average}
    saved = torch.load(tmp_path / "whole" / "last" / "weights.pt")
    for name, value in saved.items():
        wanted = model.state_dict()[name].double() if "num_batches" in name else average[name]
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
    run(tmp_path / "cut", batches=stopping_at(5))
    run(tmp_path / "cut", resume=True)
    resumed = torch.load(tmp_path / "cut" / "last" / "weights.pt")
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)


def test_a_run_that_gets_no_better_stops_early_and_stays_stopped(tmp_path):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])

    def validate():
        return {"loss": 1.0, "mean_iou": next(scores), "overall_accuracy": 0.5}

    train(tmp_path, steps=40, validate=validate, train={"patience": 2})
    found = records(tmp_path)
    assert [line["mean_iou"] for line in found if line["event"] == "validation"] == [0.5, 0.7, 0.6, 0.7]
    assert found[-1] == {"event": "early stop", "step": 16, "validations": 2}
    train(tmp_path, steps=40, validate=validate, train={"patience": 2}, resume=True)
    assert records(tmp_path)[-1]["step"] == 16
