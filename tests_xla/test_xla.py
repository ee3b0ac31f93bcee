"""Training, scoring and resuming on an XLA device: `PJRT_DEVICE=CPU` is one, without a TPU.

Not part of `make test`: `make test-xla` builds an environment of its own for it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from safetensors.torch import load_file

HERE = Path(__file__).parent
SIDE = 64
EPOCHS = 3
SEGFORMER: dict[str, Any] = {
    "kind": "segformer", "backbone": "mit-b0", "pretrained": "none", "drop_path": 0.0, "dropout": 0.0,
    "overrides": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "num_attention_heads": [1, 1, 1, 1],
                  "decoder_hidden_size": 16},
}  # fmt: skip
DINAT: dict[str, Any] = {
    "kind": "upernet", "backbone": "dinat", "pretrained": "none", "drop_path": 0.0, "dilations": "auto",
    "hidden_size": 16, "auxiliary_channels": 8,
    "overrides": {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "kernel_size": 3},
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "segformer": {"model": SEGFORMER, "optim": {"name": "sgd", "lr": 0.1}},
    "dinat": {"model": DINAT, "optim": {"name": "sgd", "lr": 0.01}},
    "averaged": {
        "model": SEGFORMER,
        "optim": {"lr": 1e-3, "clip_norm": 1.0, "ema_decay": 0.9},
        "train": {"accumulation": 2, "log_every": 2},
    },
}
"""Tiny, and without random draws on the device: XLA's are others than the CPU's."""
COMMON: dict[str, Any] = {
    "data": {"kind": "demo"},
    "augment": {"crop_size": SIDE},
    "loader": {"batch_size": 8, "eval_batch_size": 5, "workers": 0},  # the last batch of a validation has 2 images
    "train": {"epochs": EPOCHS, "log_every": 4, "keep_checkpoints": EPOCHS},
}
ON_XLA = {
    "PJRT_DEVICE": "CPU",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",  # compile quickly
}
ON_CPU = {"USE_TORCH_XLA": "false"}
ON_HOST = {
    "segformer": {"aten::upsample_bilinear2d_backward"},
    "upernet": {
        "aten::upsample_bilinear2d_backward",
        "aten::_adaptive_avg_pool2d",
        "aten::_adaptive_avg_pool2d_backward",
    },
}
"""What `torch_xla` leaves to torch's own code on the host: a gradient, where the device is a CPU, and the pooling of
UPerNet, where maps cannot be parted into equal windows."""


class Trained(NamedTuple):
    """The same run on both devices."""

    kind: str
    """Of the model."""
    config: Path
    folder: Path
    xla: dict[str, Any]
    cpu: dict[str, Any]


def started(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**base, **environment})


def python(*arguments: str | Path, **environment: str) -> str:
    done = started(*arguments, **environment)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def train(*arguments: str | Path, **environment: str) -> dict[str, Any]:
    return json.loads(python(HERE / "train.py", *arguments, **environment).splitlines()[-1])


@pytest.fixture(scope="module", params=RUNS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / "config.yaml"
    run = RUNS[request.param]
    config.write_text(yaml.safe_dump({**COMMON, **run, "train": {**COMMON["train"], **run.get("train", {})}}))
    xla = train(config, folder / "xla", **ON_XLA)
    cpu = train(config, folder / "cpu", **ON_CPU)
    assert (xla["device"], cpu["device"]) == ("xla", "cpu")
    return Trained(run["model"]["kind"], config, folder / "xla", xla, cpu)


def test_scores_of_every_epoch_equal_those_of_the_cpu(trained: Trained):
    assert len(trained.xla["scores"]) == len(trained.cpu["scores"]) == EPOCHS
    for ours, theirs in zip(trained.xla["scores"], trained.cpu["scores"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert trained.xla["scores"][-1]["loss"] < trained.xla["scores"][0]["loss"] - 2e-3, "nothing was learnt"


def test_nothing_is_compiled_after_the_first_epoch(trained: Trained):
    first, *later = trained.xla["compiled"]
    assert first > 0
    assert later == [first] * EPOCHS  # two more validations, and the end of the run


def test_the_device_is_left_for_the_known_operations_only(trained: Trained):
    assert set(trained.xla["fallbacks"]) <= ON_HOST[trained.kind]


def test_a_resumed_run_ends_with_the_same_weights(trained: Trained, tmp_path: Path):
    cut = tmp_path / "cut"
    shutil.copytree(trained.folder, cut)
    newest = sorted((cut / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    shutil.rmtree(cut / "last")
    train(trained.config, cut, "--resume", **ON_XLA)
    assert newest.exists()
    weights, resumed = (load_file(run / "last" / "model.safetensors") for run in (trained.folder, cut))
    assert weights.keys() == resumed.keys()
    assert not [name for name in weights if not weights[name].allclose(resumed[name], rtol=0, atol=1e-6)]


@pytest.mark.parametrize("protocol", [["kind=whole"], ["kind=slide", "crop_size=64", "window_batch=3"]])
def test_hfseg_evaluate_gives_the_scores_of_the_cpu(trained: Trained, tmp_path: Path, protocol: list[str]):
    options = [part for setting in protocol for part in ("--set", f"protocol.{setting}")]
    found = []
    for name, environment in (("xla", ON_XLA), ("cpu", ON_CPU)):
        output = tmp_path / name
        model = trained.folder / "last"
        python("-m", "hfseg", "evaluate", model, "--workers", "0", *options, "--output", output, **environment)
        found.append(json.loads((output / "metrics.json").read_text()))
    ours, theirs = found
    assert ours["dataset"]["images"] == theirs["dataset"]["images"] == 12
    assert sum(map(sum, ours["confusion"])) == sum(map(sum, theirs["confusion"]))
    for name in ("mean_iou", "mean_accuracy", "overall_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [("optim.auto_batch=true", "`optim.auto_batch` is for other devices"), ("runtime.cpu=true", "USE_TORCH_XLA=false")],
)
def test_what_is_for_other_devices_is_refused(setting: str, said: str, tmp_path: Path):
    command = ("finetune", "--set", setting, "--crop-size", "64", "--workers", "0", "--output", tmp_path / "run")
    done = started("-m", "hfseg", *command, **ON_XLA)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_random_draws_follow_the_seed():
    code = (
        "import torch; from hfseg.engine.xla import seed_generators as seed, cut_graph as cut\n"
        "def draw(number, device=torch.device('xla')):\n"
        "    seed(number, device); values = torch.rand(9, device=device); cut(device); return values.cpu()\n"
        "first, other, again = draw(1), draw(2), draw(1)\n"
        "print(torch.equal(first, again), torch.equal(first, other))"
    )
    assert python("-c", code, **ON_XLA).split() == ["True", "False"]


def test_batch_norms_keep_the_variances_of_the_cpu():
    code = (
        "import torch, torch_xla; from hfseg.engine.xla import correct_norms\n"
        "ours, theirs = correct_norms(torch.nn.BatchNorm2d(3)).to('xla'), torch.nn.BatchNorm2d(3)\n"
        "for step in range(3):\n"
        "    images = 3 * torch.randn(8, 3, 1, 1, generator=torch.Generator().manual_seed(step)) + 1\n"
        "    ours(images.to('xla')).sum().backward(); theirs(images)\n"
        "ours.eval()(images.to('xla'))\n"
        "torch.testing.assert_close(ours.running_var.cpu(), theirs.running_var)\n"
        "torch.testing.assert_close(ours.running_mean.cpu(), theirs.running_mean)"
    )
    python("-c", code, **ON_XLA)
