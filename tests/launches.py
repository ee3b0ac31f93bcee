"""Starts several processes on this machine's CPUs, and compares what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path

from commands import run
from safetensors.torch import load_file

import hfseg

BIN = Path(sys.executable).parent
HFSEG_SCRIPT = Path(hfseg.__file__).with_name("__main__.py")
RANKS_TRAIN = str(Path(__file__).with_name("ranks_train.py"))


def launch(*command: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment and insist on its exit code."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", **environment},
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def torchrun(count: int, script: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in `count` processes, which are forked instead of started: they need not import everything again."""
    forked = ("--start-method", "fork", "--run-path", str(script))
    options = ("--standalone", "--nproc-per-node", str(count), *forked, *arguments)
    return run("torch.distributed.run", *options, ACCELERATE_USE_CPU="true")


def train(count: int, config: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train `ranks_train.py` in `count` processes on six images a step."""
    sets = ("--sets", f"loader.batch_size={6 // count}", *options)
    return torchrun(count, RANKS_TRAIN, str(config), str(folder), *sets)


def assert_close_weights(one: Path, other: Path, *, atol: float) -> None:
    """Compare every tensor of two files of weights."""
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    worst = max((float((left[name].double() - right[name].double()).abs().max()), name) for name in left)
    assert worst[0] <= atol, f"`{worst[1]}` differs by {worst[0]:.3g}"
