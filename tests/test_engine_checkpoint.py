"""Checkpoints are whole or not there, and damaged ones are passed over."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hfseg.engine.checkpoint import TrainingState, load_newest, replace_folder, save_checkpoint
from hfseg.errors import CheckpointError


def state(step: int) -> TrainingState:
    weights = torch.arange(6.0).reshape(2, 3) + step
    return TrainingState(
        step=step,
        model={"weight": weights, "count": torch.tensor(step)},
        optimizer={
            "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weights * 2}},
            "param_groups": [{"lr": 0.1}],
        },
        scaler=None,
        best={"mean_iou": 0.25},
        log_bytes=17,
    )


def silent(message: str) -> None:
    raise AssertionError(f"nothing to warn about: {message}")


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path, state(3), keep=2)
    found = load_newest(tmp_path, warn=silent)
    assert (found.step, found.best, found.log_bytes) == (3, {"mean_iou": 0.25}, 17)
    assert torch.equal(found.model["weight"], state(3).model["weight"])
    assert torch.equal(found.optimizer["state"][0]["exp_avg"], state(3).optimizer["state"][0]["exp_avg"])


def test_the_newest_k_are_kept(tmp_path):
    for step in (5, 10, 100, 1000000):
        save_checkpoint(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000100", "step-1000000"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_newest(tmp_path / "none", warn=silent) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, name, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, state(step), keep=2)
    path = tmp_path / "step-000002" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    said = []
    assert load_newest(tmp_path, warn=said.append).step == 1
    assert len(said) == 1
    assert "step-000002` is damaged" in said[0]


def test_all_damaged_is_an_error(tmp_path):
    save_checkpoint(tmp_path, state(1), keep=2)
    (tmp_path / "step-000001" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read: step-000001"):
        load_newest(tmp_path, warn=lambda message: None)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "best"
    replace_folder(target, lambda folder: (folder / "a").write_text("one") and None)

    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_folder(target, fail)
    assert (target / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_stop_between_the_two_renames_is_mended(tmp_path):
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "a").write_text("one")
    with pytest.raises(OSError, match="late"):
        replace_folder(tmp_path / "best", lambda folder: (_ for _ in ()).throw(OSError("late")))
    assert (tmp_path / "best" / "a").read_text() == "one"


FULL_DISK = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from hfseg.engine.checkpoint import TrainingState, save_checkpoint
from hfseg.errors import RunFailed
small = TrainingState(1, {"w": torch.zeros(10)}, {"state": {}, "param_groups": []}, None, {}, 0)
folder = Path(sys.argv[1])
save_checkpoint(folder, small, keep=2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    large = {"w": torch.zeros(100_000)}
    parts = {"model": large} if sys.argv[2] == "model" else {"optimizer": {"state": {0: large}, "param_groups": []}}
    save_checkpoint(folder, replace(small, step=2, **parts), keep=2)
except RunFailed as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_file_that_cannot_be_written_leaves_the_checkpoint_before_whole(tmp_path, part):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), part],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert "step-000002` cannot be written" in done.stdout
    assert "step-000001` is whole" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert load_newest(tmp_path, warn=silent).step == 1


def test_states_are_values():
    assert replace(state(1), step=2).step == 2
