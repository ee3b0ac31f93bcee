"""Kill a run with SIGKILL at random moments, go on, and compare with a run that was never stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import QUICK, hfseg, start
from test_end_to_end import assert_same_weights, records, weights

RUN = [
    *QUICK,
    "--steps",
    "24",
    "--set",
    "train.eval_every=6",
    "--set",
    "train.checkpoint_every=1",
    "--set",
    "train.log_every=1",
]
KILLS = 20


@pytest.mark.kill
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    hfseg("finetune", *RUN, "--output", whole)
    lasted = time.monotonic() - began
    dice = random.Random(7)
    kills = 0
    while kills < KILLS:
        resume = (cut / "config.yaml").exists()
        how = ["--output", cut, "--resume"] if resume else [*RUN, "--output", cut]
        with start("finetune", *how) as process:
            _wait_until_it_trains(cut, process) if kills % 4 else None
            time.sleep(dice.uniform(0, 0.25) * lasted)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                continue
            assert process.returncode == 0, process.stdout.read()
        shutil.rmtree(cut)  # it got to its end before the blow: kill another one
    assert (cut / "config.yaml").exists()
    hfseg("finetune", "--output", cut, "--resume")
    assert_same_weights(weights(cut), weights(whole))
    for name in ("best-miou", "best-loss"):
        assert_same_weights(weights(cut, name), weights(whole, name))
    for event in ("train", "validation"):
        assert records(cut, event) == records(whole, event)


@pytest.mark.kill
def test_kills_of_one_rank_or_of_all_change_nothing_and_lose_no_checkpoint():
    script = Path(__file__).parents[1] / "scripts" / "faults.py"
    command = [sys.executable, script, "--only", "killed at", "--kills", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "killed at 4 random moments" in line]
    assert len(rows) == 2, done.stdout
    assert all("0 checkpoints lost | 0 |" in row and row.endswith("| yes |") for row in rows), done.stdout


def _wait_until_it_trains(folder, process):
    log = folder / "log.jsonl"
    length = log.stat().st_size if log.exists() else 0
    while process.poll() is None and not (log.exists() and log.stat().st_size > length):
        time.sleep(0.01)
