"""A study from the command line: members in processes of their own, one that fails, a stop, and going on."""

import csv
import json
import signal
import time

import pytest
from commands import hfseg, start

STUDY = """
study:
  base:
    data: {kind: demo}
    augment: {crop_size: 64}
    loader: {batch_size: 4, workers: 1}
    model:
      kind: segformer
      backbone: mit-b0
      pretrained: none
      overrides: {depths: [1, 1, 1, 1], hidden_sizes: [8, 16, 24, 32], decoder_hidden_size: 16}
    optim: {lr: 1.0e-3, warmup_steps: 0}
    train: {epochs: null, steps: STEPS, checkpoint_every: 5}
    samples: 0
    runtime: {cpu: true}
  members:
    broken: {model: {pretrained: /nowhere/weights}}
    ce: {}
    dice: {loss: {terms: dice}}
cost: {rounds: 2, warm_up: 0}
pictures: 1
"""


def written(tmp_path, steps):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("STEPS", str(steps)))
    return path


@pytest.mark.slow
def test_a_member_that_fails_is_kept_with_its_error_and_the_others_are_compared(tmp_path):
    output = tmp_path / "out"
    done = hfseg("compare", "--study", written(tmp_path, 2), "--output", output, "--cpu", code=1)
    assert "failed: broken: seed 0: model folder `/nowhere/weights` does not exist" in done.stdout
    with (output / "compare.csv").open() as file:
        rows = {row["member"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"broken", "ce", "dice"}
    assert rows["broken"]["mean_iou_percent"] == ""
    assert all(float(rows[name]["mean_iou_percent"]) > 0 for name in ("ce", "dice"))
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").glob("*/metrics.json")}
    assert len(before) == 2
    again = hfseg("compare", "--output", output, "--resume", "--json", code=1)
    assert {member["name"] for member in json.loads(again.stdout)["members"]} == set(rows)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # finished runs were left alone
    assert "USDT" not in done.stderr + again.stderr
    changed = hfseg("compare", "--output", output, "--resume", "--lr", "0.1", code=2)
    assert "was made with other settings: `optim.lr` was 0.001, got 0.1" in changed.stderr


@pytest.mark.slow
def test_a_signal_reaches_the_member_and_the_study_goes_on_where_it_was(tmp_path):
    output, path = tmp_path / "out", written(tmp_path, 80)
    arguments = ("compare", "--study", path, "--output", output, "--cpu", "--set", "study.scale=two")
    path.write_text(path.read_text().replace("study:\n", "study:\n  scales: {two: {members: [ce, dice]}}\n"))
    process, log = start(*arguments), output / "runs" / "ce-0" / "log.jsonl"
    until = time.monotonic() + 240
    while not (log.is_file() and '"step": 10' in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 143, said
    assert "error: study stopped by SIGTERM" in said
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (log.parent / "checkpoints" / f"step-{last:06d}").is_dir()  # the member saved its state, as it does alone
    assert last < 80
    assert not (output / "runs" / "dice-0").exists()
    short = ["--set", "cost.rounds=1", "--set", "bootstrap.resamples=100"]
    hfseg("compare", "--output", output, "--resume", *short)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events.count("resume") == 1
    assert (output / "compare.html").is_file()
