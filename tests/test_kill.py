"""Kill a run with SIGKILL at random moments, go on, and compare with a run that was never stopped."""

import os
import random
import shutil
import signal
import time

import pytest
from commands import QUICK, hfseg, start
from test_end_to_end import assert_same_weights, records, weights

RUN = [*QUICK, "--steps", "24", "--set", "train.eval_every=6", "--set", "train.checkpoint_every=1", "--set", "train.log_every=1"]
KILLS = 20


@pytest.mark.kill
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    began = time.monotonic()
    hfseg("finetune", *RUN, "--output", whole)
    lasted = time.monotonic() - began
    dice = random.Random(7)
    kills, steps = 0, []
    while kills < KILLS:
        resume = (cut / "config.yaml").exists()
        process = start("finetune", *([] if resume else RUN), "--output", cut, *(["--resume"] if resume else []))
        time.sleep(dice.uniform(0.2, 1.0) * lasted * 0.6)
        if process.poll() is not None:
            assert process.returncode == 0, process.stdout.read()
            shutil.rmtree(cut)  # it got to its end before the blow: kill another one
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        steps.append(max((int(path.name[5:]) for path in cut.glob("checkpoints/step-*")), default=0))
    hfseg("finetune", "--output", cut, "--resume") if (cut / "config.yaml").exists() else hfseg("finetune", *RUN, "--output", cut)
    print("steps reached at each kill:", steps)
    assert_same_weights(weights(cut), weights(whole))
    for name in ("best-miou", "best-loss"):
        assert_same_weights(weights(cut, name), weights(whole, name))
    for event in ("train", "validation"):
        assert records(cut, event) == records(whole, event)

