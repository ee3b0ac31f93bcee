"""Two CPU processes: the same weights on both, every validation image once, and launches that go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK, hfseg

BIN = Path(sys.executable).parent
CONFIG = """
data: {kind: demo}
model: {kind: segformer, backbone: mit-b0, pretrained: none}
augment: {crop_size: 64}
loader: {batch_size: 4, eval_batch_size: 5, workers: 1}
optim: {lr: 1.0e-3}
train: {steps: 4, eval_every: 2, log_every: 1}
"""


def launch(*command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", **environment},
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def torchrun(count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch("torchrun", "--standalone", "--nproc_per_node", str(count), *arguments)


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
    torchrun(2, "-m", "hfseg", "finetune", *QUICK, "--steps", "2", "--output", str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "env.json").read_text())["processes"] == "2"
    done = hfseg("finetune", "--output", tmp_path / "run", "--resume", code=2)
    assert "was started with 2 processes: got 1" in done.stderr


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
