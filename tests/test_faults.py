"""What goes wrong on a machine ends a run soon, with an error that says what to do, and nothing is lost."""

import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest
import torch
from commands import QUICK, hfseg, start
from launches import HFSEG_SCRIPT, torchrun
from test_data_loader import AUGMENT, SPACE, equal, made, row, streamed, table
from test_end_to_end import assert_same_weights, weights
from test_engine_checkpoint import state
from torch import nn
from torch.utils.data._utils import signal_handling

from hfseg.data import LoaderConfig, TableDataset, eval_loader, train_loader
from hfseg.data.loader import Skips
from hfseg.data.reader import STAND_INS
from hfseg.engine.checkpoint import load_newest, save_checkpoint
from hfseg.engine.lock import LOCK, sole_run
from hfseg.engine.lost import lost_processes_told
from hfseg.engine.memory import out_of_memory_told
from hfseg.engine.runtime import RuntimeConfig
from hfseg.errors import CheckpointError, DataError, RunFailed


def silent(message: str) -> None:
    raise AssertionError(f"nothing to warn about: {message}")


# Two runs in one folder


def hold(folder, ready, dies):
    """Take the folder in another process, which has a child as loader workers are, and wait to be killed."""
    with sole_run(folder, RuntimeConfig(cpu=True).start(), warn=silent):
        if os.fork() == 0:
            dies.wait()
            os._exit(0)
        ready.set()
        time.sleep(60)


def taken(folder):
    """Take a folder and let go of it."""
    with sole_run(folder, RuntimeConfig(cpu=True).start(), warn=silent):
        pass


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_killed(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, dies, runtime = context.Event(), context.Event(), RuntimeConfig(cpu=True).start()
    first = context.Process(target=hold, args=(tmp_path / "run", ready, dies))
    first.start()
    assert ready.wait(20)
    with pytest.raises(CheckpointError, match=rf"in use: process {first.pid} on `.+` has been running in it since 20"):
        taken(tmp_path / "run")
    first.kill()
    first.join()
    with sole_run(tmp_path / "run", runtime, warn=silent):  # although a child of the first one still lives
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    dies.set()


def test_a_folder_that_nothing_came_into_is_taken_away_again(tmp_path):
    taken(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with sole_run(tmp_path / "run", RuntimeConfig(cpu=True).start(), warn=silent):
        (tmp_path / "run" / "log.jsonl").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.jsonl"]


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    said = []
    with sole_run(tmp_path / "run", RuntimeConfig(cpu=True).start(), warn=said.append):
        assert said == [f"`{tmp_path / 'run'}` is on a file system without locks: nothing keeps a second run out of it"]


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/run` cannot be written: Not a directory"):
        taken(tmp_path / "file" / "run")


# Files that cannot be read


def broken(*numbers, count=23, **options):
    """A data set in which some images are cut off."""
    rows = [row(number) for number in range(count)]
    for number in numbers:
        rows[number]["image"] = {"bytes": rows[number]["image"]["bytes"][:50], "path": f"{number}.jpg"}
    return TableDataset(table(rows), SPACE, name="made", **options)


def batches(dataset, count, *, workers=0, batch_size=4, skips=None, augment=AUGMENT, **options):
    config = LoaderConfig(batch_size=batch_size, workers=workers, on_error="skip")
    return list(islice(train_loader(dataset, augment, config, seed=7, skips=skips, **options), count))


@pytest.mark.slow
def test_the_next_sample_stands_in_for_one_that_cannot_be_read():
    whole, mended = batches(broken(), 12), batches(broken(5, 6, 22), 12)
    instead = {"5": "7", "6": "7", "22": "0"}
    assert [b.ids for b in mended] == [tuple(instead.get(name, name) for name in b.ids) for b in whole]
    for one, other in zip(whole, mended, strict=True):
        assert torch.equal(one.draws, other.draws)
        same = [place for place, name in enumerate(one.ids) if name not in instead]
        assert torch.equal(one.pixel_values[same], other.pixel_values[same])


@pytest.mark.slow
def test_what_stands_in_depends_on_neither_workers_nor_ranks_nor_the_start():
    whole = batches(broken(5, 6), 12)
    assert equal(whole, batches(broken(5, 6), 12, workers=2))
    assert equal(whole[7:], batches(broken(5, 6), 5, start_step=7))
    ranks = [batches(broken(5, 6), 10, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    assert [b.ids for b in whole[:10]] == [a.ids + b.ids for a, b in zip(*ranks, strict=True)]


def test_each_broken_file_is_named_once_and_counted(caplog):
    skips = Skips()
    batches(broken(5, 6), 23 // 4 * 4, skips=skips, workers=1)
    assert sorted(re.findall(r"left out: `(\d)\.jpg` is truncated", caplog.text)) == ["5", "6"]
    found = {problem[1]: times for problem, times in skips.take().items()}
    assert found["5"] >= 3
    assert found["6"] >= found["5"]  # it is the first that is tried instead of the other
    assert skips.take() == {}


def test_a_broken_sample_of_a_stream_is_replaced_by_another_of_its_batch():
    rows = [row(number) for number in range(8)]
    rows[3]["image"] = {"bytes": b"no image", "path": "3.jpg"}
    stream = streamed()
    broken_stream = type(stream)(table(rows).to_iterable_dataset(), SPACE, "made", "train", 8)
    found = batches(broken_stream, 2)
    assert sorted(len(set(batch.ids)) for batch in found) == [3, 4]
    assert equal(found, batches(broken_stream, 2, workers=1))


@pytest.mark.slow
def test_a_broken_donor_of_copy_paste_pastes_nothing():
    skips = Skips()
    dataset = broken(5)
    augment = AUGMENT.model_copy(update={"copy_paste": 1.0})
    assert all("5" not in batch.ids for batch in batches(dataset, 20, skips=skips, augment=augment))
    assert {problem[:8] for problem in skips.take()} == {"`5.jpg` "}


def test_a_data_set_that_is_gone_ends_the_run_whatever_the_policy():
    with pytest.raises(DataError, match=rf"^{STAND_INS} samples of `made` in a row cannot be read, the last of them"):
        batches(broken(*range(23)), 1)


def test_validation_leaves_nothing_out():
    with pytest.raises(DataError, match=r"`5.jpg` is truncated"):
        list(eval_loader(broken(5), LoaderConfig(workers=0, on_error="skip")))


def test_a_broken_file_ends_the_run_where_nothing_else_is_said():
    with pytest.raises(DataError, match=r"`5.jpg` is truncated"):
        list(islice(train_loader(broken(5), AUGMENT, LoaderConfig(batch_size=4, workers=1), seed=7), 12))


# Worker processes


def reading(dataset, **options):
    """Start reading with one worker; give the batches and the worker."""
    others = active_children()
    config = LoaderConfig(batch_size=4, workers=1, **options)
    source = iter(train_loader(dataset, AUGMENT, config, seed=7))
    next(source)
    return source, next(child for child in active_children() if child not in others)


def test_a_worker_that_is_killed_ends_the_run_at_the_next_read():
    source, worker = reading(made())
    worker.kill()
    worker.join()
    with pytest.raises(RunFailed) as caught:
        next(source)
    assert caught.value.message == f"a loader worker (process {worker.pid}) was lost: ended by SIGKILL"
    assert "`loader.workers` smaller" in caught.value.hint
    assert "/dev/shm" in caught.value.hint


@pytest.mark.slow
def test_a_worker_that_is_killed_while_something_waits_for_it_ends_the_run():
    source, worker = reading(made())
    psutil.Process(worker.pid).suspend()
    threading.Timer(1, worker.kill).start()
    with pytest.raises(RunFailed, match=rf"^a loader worker \(process {worker.pid}\) was lost: ended by SIGKILL\n"):
        list(source)


def test_nothing_is_raised_between_reads_and_other_handlers_are_left_in_place(monkeypatch):
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in a process that has not read yet
    heard = []
    before = signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
    try:
        source, worker = reading(made())
        worker.kill()
        worker.join()
        assert heard
        source.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.slow
def test_a_file_that_never_answers_ends_the_run_in_the_time_that_is_given(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    rows = [row(number) for number in range(8)]
    rows[3]["image"] = {"bytes": None, "path": str(tmp_path / "pipe.png")}
    others = active_children()
    config = LoaderConfig(batch_size=4, workers=1, timeout_s=1)
    began = time.monotonic()
    loader = train_loader(TableDataset(table(rows), SPACE, name="made"), AUGMENT, config, seed=7)
    with pytest.raises(RunFailed, match=r"^no batch came from the loader workers in 1 s \(`loader.timeout_s`\)\n"):
        list(loader)
    assert time.monotonic() - began < 60
    assert active_children() == others


@pytest.mark.slow
def test_a_worker_that_was_stopped_ends_the_run_in_the_time_that_is_given_and_itself():
    source, worker = reading(made(), timeout_s=5)
    worker_was = psutil.Process(worker.pid)
    worker_was.suspend()
    began = time.monotonic()
    with pytest.raises(RunFailed, match=r"^no batch came from the loader workers in 5 s \(`loader.timeout_s`\)\n"):
        list(source)
    assert time.monotonic() - began < 60
    assert not worker_was.is_running()


@pytest.mark.slow
def test_a_pass_that_is_left_takes_a_stopped_worker_with_it():
    source, worker = reading(made())
    psutil.Process(worker.pid).suspend()
    source.close()
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_time_in_which_the_run_itself_was_stopped_does_not_count():
    code = (
        "import sys, threading\n"
        "from hfseg.data.workers import _passed\n"
        "event = threading.Event()\n"
        "threading.Thread(target=lambda: sys.stdin.read(1) and event.set(), daemon=True).start()\n"
        "print('waiting', flush=True)\n"
        "print(_passed(event, 6), _passed(threading.Event(), 0.5))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(7)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert process.communicate("x")[0] == "True False\n"


@pytest.mark.slow
@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_pass_that_nobody_ended_may_be_collected_in_any_thread(is_stopped):
    source, worker = reading(made())
    if is_stopped:
        psutil.Process(worker.pid).suspend()
    with ThreadPoolExecutor(1) as other:
        other.submit(source.close).result(60)
    assert not worker.is_alive()


@pytest.mark.slow
def test_a_process_that_ends_in_an_error_does_not_wait_for_a_stopped_worker():
    code = (
        "import psutil, test_faults\n"
        "source, worker = test_faults.reading(test_faults.made())\n"
        "psutil.Process(worker.pid).suspend()\n"
        "raise SystemExit(5)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, timeout=300, check=False)
    assert done.returncode == 5


def test_a_worker_outlives_the_sigterm_that_a_scheduler_sends_to_everyone():
    source, worker = reading(made())
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(islice(source, 20))) == 20
    assert worker.is_alive()
    worker.terminate()  # as Python does with those that are left at its end
    worker.join(10)
    assert worker.exitcode == 0


def test_a_process_that_is_gone_is_said_in_our_words_and_nothing_else():
    with pytest.raises(RunFailed, match="another process of the run is gone"), lost_processes_told():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer")
    with pytest.raises(RuntimeError, match="mat1"), lost_processes_told():
        raise RuntimeError("mat1 and mat2 do not fit")


# Checkpoints


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_bit_that_flips_in_any_file_of_a_checkpoint_is_noticed(tmp_path, bit):
    for step in (1, 2):
        save_checkpoint(tmp_path, replace(state(step), average={"weight": torch.ones(2, 3)}), keep=2)
    files = sorted((tmp_path / "step-000002").iterdir())
    assert "average.safetensors" in [path.name for path in files]
    for path in files:
        whole = path.read_bytes()
        place = len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        said: list[str] = []
        assert load_newest(tmp_path, warn=said.append).step == 1, path.name
        assert "step-000002` is damaged" in said[0]
        path.write_bytes(whole)
    assert load_newest(tmp_path, warn=silent).step == 2


# Memory


@pytest.mark.parametrize("shape", [None, torch.Size((8, 3, 512, 1024))])
def test_running_out_of_memory_says_how_large_everything_is(shape):
    def allocate():
        with out_of_memory_told(nn.Linear(1000, 1500), torch.device("cpu")) as tell:
            if shape is not None:
                tell(shape)
            torch.empty(1 << 50, dtype=torch.uint8)

    with pytest.raises(RunFailed) as caught:
        allocate()
    batch = "" if shape is None else "8 images of 1024 x 512 pixels in a batch, "
    assert caught.value.message == f"memory of `cpu` does not suffice: {batch}1.5 million parameters"
    assert "`loader.batch_size`" in caught.value.hint


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), out_of_memory_told(nn.Linear(1, 1), torch.device("cpu")):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


# Whole runs

LONG = [*QUICK, "--steps", "20000", "--set", "train.eval_every=20000", "--set", "train.log_every=1"]


def until_it_trains(folder, process):
    while not ((folder / "log.jsonl").exists() and '"train"' in (folder / "log.jsonl").read_text()):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_second_command_on_the_same_output_is_refused(tmp_path):
    with start("finetune", *LONG, "--output", tmp_path / "run") as process:
        until_it_trains(tmp_path / "run", process)
        try:
            refused = [
                hfseg("finetune", *how, "--output", tmp_path / "run", code=2).stderr for how in ([*LONG], ["--resume"])
            ]
        finally:
            process.kill()
    assert all(re.search(rf"run` is in use: process {process.pid} on ", said) for said in refused), refused


@pytest.mark.slow
def test_a_lost_worker_ends_the_command(tmp_path):
    with start("finetune", *LONG, "--output", tmp_path / "run") as process:
        until_it_trains(tmp_path / "run", process)
        psutil.Process(process.pid).children()[0].kill()
        try:
            said, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 1, said
    assert re.search(r"error: a loader worker \(process \d+\) was lost: ended by SIGKILL", said)


@pytest.mark.slow
def test_sigterm_to_torchrun_stops_all_ranks_at_one_step_with_a_whole_checkpoint(tmp_path):
    short = [*QUICK, "--steps", "24", "--set", "train.eval_every=24", "--set", "train.log_every=1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hfseg"]
    with subprocess.Popen(
        [*command, "finetune", "--output", str(tmp_path / "cut"), *short],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    ) as process:  # fmt: skip
        until_it_trains(tmp_path / "cut", process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=300)
    steps = re.findall(r"stopped by .* after step (\d+) of 24; the state is saved", said)
    assert process.returncode == 1, said
    assert len(steps) == 2
    assert len(set(steps)) == 1, said
    torchrun(2, HFSEG_SCRIPT, "finetune", "--output", str(tmp_path / "cut"), "--resume")
    torchrun(2, HFSEG_SCRIPT, "finetune", "--output", str(tmp_path / "whole"), *short)
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
