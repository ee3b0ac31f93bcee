"""The encoders that people come for, from the command line to a model that plain Transformers opens."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import QUICK, hfseg, run, start
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
NAT = {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "kernel_size": 3}
VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
FASTERVIT = {"stem_channels": 8, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [2, 2], "window_size": [2, 2]}
ENCODERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nat": (NAT, ["--decoder", "upernet", "--set", "model.hidden_size=16"]),
    "dinat": (NAT, ["--decoder", "upernet", "--set", "model.hidden_size=16", "--set", "model.dilations=auto"]),
    "fastervit": (FASTERVIT, ["--decoder", "fusion", "--set", "model.hidden_size=32"]),
    "dinov2": (VIT, ["--decoder", "fusion", "--set", "model.hidden_size=32"]),
}
SIZES = ["--steps", "4", "--set", "train.eval_every=2", "--set", "runtime.cpu=true"]


def command(backbone: str) -> list[str]:
    overrides, options = ENCODERS[backbone]
    tiny = ["--backbone", backbone, "--pretrained", "none", "--set", f"model.overrides={json.dumps(overrides)}"]
    return ["finetune", *tiny, *options, *QUICK, *SIZES, "--freeze", "backbone.stages.0"]


@pytest.mark.parametrize("backbone", ENCODERS)
def test_it_trains_freezes_resumes_scores_predicts_and_reopens(backbone: str, tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hfseg(*command(backbone), "--output", whole)
    with start(*command(backbone), "--output", cut) as process:
        while not (cut / "checkpoints" / "step-000002").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    hfseg("finetune", "--output", cut, "--resume")
    weights, resumed = (load_file(run / "last" / "model.safetensors") for run in (whole, cut))
    assert weights.keys() == resumed.keys()
    assert not [name for name in weights if not weights[name].equal(resumed[name])]
    rows = {row["module"]: row for row in json.loads((whole / "parameters.json").read_text())}
    frozen = [name for name, row in rows.items() if row["total"] and not row["trainable"] and "backbone" in name]
    assert frozen
    before, after = (load_file(whole / "checkpoints" / f"step-00000{step}" / "model.safetensors") for step in (2, 4))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved
    assert not [name for name in moved if name.startswith(tuple(f"{module}." for module in frozen))]
    hfseg("evaluate", whole, "--output", tmp_path / "eval")
    found, kept = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "eval", whole))
    assert found["confusion"] == kept["confusion"]
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 77, 3), dtype=np.uint8)).save(tmp_path / "odd.png")
    hfseg("predict", whole, tmp_path / "odd.png", "--output", tmp_path / "out")
    with Image.open(tmp_path / "out" / "odd.png") as mask:
        assert mask.size == (77, 50)
    run("opens", whole / "best-miou", tmp_path / "odd.png")


def test_the_leaf_recipe_runs_on_a_folder_in_its_layout(tmp_path: Path):
    rng = np.random.default_rng(0)
    for part, count in {"train": 4, "valid": 2}.items():
        for number in range(count):
            disease = np.zeros((64, 80), dtype=np.uint8)
            disease[20:40, 10 * number : 10 * number + 25] = 255
            image = rng.integers(0, 120, (64, 80, 3)) + disease[..., None] // 2
            for kind, array in {"images": image.astype(np.uint8), "masks": disease}.items():
                path = tmp_path / "leaf" / f"{part}_{kind}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    hfseg(
        *("finetune", "--config", "fastervit-leaf", "--data-dir", tmp_path / "leaf", "--pretrained", "none"),
        *("--crop-size", "64", "--short-side", "64", "--batch-size", "2", "--epochs", "2", "--workers", "1"),
        *(
            "--set",
            f"model.overrides={json.dumps(FASTERVIT)}",
            "--set",
            "model.hidden_size=32",
            "--output",
            tmp_path / "run",
        ),
    )
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["optim"]["name"] == "adam"
    assert settings["optim"]["milestones"] == [0.5, 0.6]
    for best in ("best-miou", "best-loss"):
        assert json.loads((tmp_path / "run" / best / "config.json").read_text())["model_type"] == "hfseg_fusion"
    assert list((tmp_path / "run" / "plots").iterdir())
