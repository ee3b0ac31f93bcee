"""Break runs in every way that can be arranged on one machine, go on with them, and print what happened as a table.

    python scripts/faults.py --kills 30 > table.md
    python scripts/faults.py --only "a loader worker"

Each fault strikes a short run on the demo images, by `hfseg finetune` as a user starts it. Then the run goes on by
`--resume`, and its last and best weights are compared, bit for bit, with those of a run that nothing happened to. Needs
Linux; the faults of the disk need a user that may mount.
"""

import argparse
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from safetensors.torch import load_file

from hfseg.data import DemoConfig

HFSEG = [sys.executable, "-m", "hfseg"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--master_port",
    "29671",
    "-m",
    "hfseg",
]
SETTINGS = """
data: {{kind: folder, data_dir: {data}}}
model: {{kind: segformer, backbone: mit-b0, pretrained: none}}
augment: {{crop_size: 64}}
loader: {{batch_size: 4, eval_batch_size: 12, workers: 1}}
optim: {{lr: 1.0e-3}}
train: {{steps: 24, eval_every: 8, checkpoint_every: 2, log_every: 1}}
runtime: {{cpu: true}}
samples: 1
"""
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LONGEST_S = 600


@dataclass
class Outcome:
    """What a fault did to a run."""

    said: str
    code: int
    seconds: float
    """From the fault to the end of the last process of the run."""
    equal: str = "-"
    """Whether the run that went on ended with the weights of an unbroken one."""


@dataclass
class Run:
    """A run that can be started, struck and gone on with, in one process or two."""

    root: Path
    name: str
    ranks: int = 1
    more: tuple[str, ...] = ()
    data: Path | None = None
    process: subprocess.Popen[str] = field(init=False, repr=False)

    @property
    def folder(self) -> Path:
        """Give the run's output."""
        return self.root / self.name

    def start(self, *, resume: bool = False) -> "Run":
        """Start the run or go on with it, and do not wait."""
        config = self.root / "config.yaml"
        if self.data is not None:
            config = self.root / f"{self.name}.yaml"
            config.write_text(SETTINGS.format(data=self.data))
        command = [*(TORCHRUN if self.ranks > 1 else HFSEG), "finetune"]
        command += ["--output", self.folder, "--resume"] if resume else ["--config", config, "--output", self.folder]
        with (self.root / f"{self.name}.out").open("w") as out:
            self.process = subprocess.Popen(
                [*map(str, command), *self.more],
                stdout=out,
                stderr=out,
                text=True,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        return self

    def until(self, steps: int) -> "Run":
        """Wait until this many lines of training are logged."""
        log = self.folder / "log.jsonl"
        while not (log.exists() and log.read_text().count('"train"') >= steps):
            assert self.process.poll() is None, self.output()
            time.sleep(0.01)
        return self

    def members(self) -> list[psutil.Process]:
        """Give the processes of the run that live, the launcher first."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def main_processes(self) -> list[psutil.Process]:
        """Give the processes that train, without launcher and loader workers."""
        first, *_ = members = self.members()
        return [p for p in members if p.ppid() == first.pid] if self.ranks > 1 else [first]

    def workers(self) -> list[psutil.Process]:
        """Give the processes that read."""
        return [worker for process in self.main_processes() for worker in process.children()]

    def output(self) -> str:
        """Give what the run printed."""
        return (self.root / f"{self.name}.out").read_text()

    def ended(self, began: float) -> Outcome:
        """Wait for every process of the run, and say what it said."""
        members = self.members() if self.process.poll() is None else []
        code = self.process.wait(LONGEST_S)
        psutil.wait_procs(members, timeout=LONGEST_S)
        errors = re.findall(r"^error(?: \(process \d+\))?: (.*(?:\n  .*)*)", self.output(), re.MULTILINE)
        said = errors[0] if errors else "done" if code == 0 else "nothing"
        return Outcome(said.replace(str(self.root) + "/", ""), code, time.monotonic() - began)

    def struck(self, strike: Callable[["Run"], None]) -> Outcome:
        """Strike, and wait for the end."""
        began = time.monotonic()
        strike(self)
        return self.ended(began)

    def goes_on_like(self, whole: "Run") -> str:
        """Go on with the run and compare it with one that was never broken."""
        outcome = self.start(resume=True).ended(time.monotonic())
        return f"no: {outcome.said}" if outcome.code else self.equals(whole)

    def equals(self, whole: "Run") -> str:
        """Compare the weights of two runs, bit for bit."""
        for name in ("last", "best-miou", "best-loss"):
            mine, theirs = (load_file(run.folder / name / "model.safetensors") for run in (self, whole))
            if mine.keys() != theirs.keys() or not all(mine[key].equal(theirs[key]) for key in mine):
                return f"no: `{name}` differs"
        return "yes"


class Unbroken(dict[int, Run]):
    """Runs that nothing happened to, by their number of processes, made when they are first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, ranks: int) -> Run:
        """Make a run and wait for its end."""
        self[ranks] = Run(self.root, f"whole-{ranks}", ranks)
        outcome = self[ranks].start().ended(time.monotonic())
        assert outcome.code == 0, self[ranks].output()
        return self[ranks]


Members = Callable[[Run], list[psutil.Process]]
"""Picks some processes of a run."""
Fault = Callable[[Path, Unbroken], Outcome]
"""Breaks a run below a folder; is given unbroken ones."""


def send(processes: Members, number: signal.Signals) -> Callable[[Run], None]:
    """Make a strike that signals some processes of a run."""

    def strike(run: Run) -> None:
        for process in processes(run):
            process.send_signal(number)

    return strike


def signalled(name: str, ranks: int, who: Members, number: signal.Signals, *more: str) -> Fault:
    """Make a fault that signals processes in the middle of a run, which is started with `more` settings."""

    def fault(root: Path, whole: Unbroken) -> Outcome:
        run = Run(root, name, ranks, more).start().until(5)
        outcome = run.struck(send(who, number))
        run.more = ()
        outcome.equal = run.goes_on_like(whole[ranks])
        return outcome

    return fault


def launcher(run: Run) -> list[psutil.Process]:
    """Pick the process that was started."""
    return run.members()[:1]


def one_rank(run: Run) -> list[psutil.Process]:
    """Pick the last of the processes that train, as soon as there is one."""
    while not (ranks := run.main_processes()):
        time.sleep(0.01)
    return ranks[-1:]


def one_worker(run: Run) -> list[psutil.Process]:
    """Pick a process that reads."""
    return run.workers()[:1]


def killed_often(ranks: int, kills: int) -> Fault:
    """Make a fault that kills a run again and again at random moments: one rank and all processes in turn."""

    def fault(root: Path, whole: Unbroken) -> Outcome:
        dice, longest, lost = random.Random(ranks), 0.0, 0
        run = Run(root, f"killed-{ranks}", ranks).start()
        for kill in range(kills):
            run.until(dice.randrange(1, 20)) if kill % 3 else time.sleep(dice.uniform(0, 8))
            before = newest(run)
            outcome = run.struck(send(one_rank if ranks > 1 and kill % 2 else Run.members, signal.SIGKILL))
            longest, lost = max(longest, outcome.seconds), lost + (newest(run) < before)
            done = (run.folder / "report.html").exists()
            if done:
                shutil.rmtree(run.folder)
            run.start(resume=not done and (run.folder / "config.yaml").exists())
        last = run.ended(time.monotonic())
        said = f"{kills} kills, {lost} checkpoints lost"
        return Outcome(said, last.code, longest, f"no: {last.said}" if last.code else run.equals(whole[ranks]))

    return fault


def newest(run: Run) -> int:
    """Give the step of the newest checkpoint; 0 where there is none."""
    return max((int(path.name[5:]) for path in run.folder.glob("checkpoints/step-*")), default=0)


def second_run(*flags: str) -> Fault:
    """Make a fault that starts a second run in the folder of one under way."""

    def fault(root: Path, whole: Unbroken) -> Outcome:
        first = Run(root, "twice" + "".join(flags)).start().until(2)
        members = first.members()
        for process in members:  # so that it does not end before the second one has started
            process.suspend()
        began = time.monotonic()
        how = flags or ("--config", str(root / "config.yaml"))
        done = subprocess.run(
            [*HFSEG, "finetune", "--output", str(first.folder), *how], capture_output=True, text=True, env=ENVIRONMENT
        )
        for process in members:
            process.resume()
        seconds, line = time.monotonic() - began, done.stderr.strip().splitlines()[0]
        said = re.sub(r"^error: ", "", line).replace(f"{root}/", "")
        equal = f"no: {outcome.said}" if (outcome := first.ended(began)).code else first.equals(whole[1])
        return Outcome(said, done.returncode, seconds, equal)

    return fault


def own_data(root: Path, name: str) -> Path:
    """Copy the images for a fault that breaks them."""
    return shutil.copytree(root / "data", root / f"data-{name}")


def cut(path: Path) -> None:
    """Leave half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def broken_jpeg(policy: str) -> Fault:
    """Make a fault that cuts a training image off: its header is whole, its pixels are not."""

    def fault(root: Path, whole: Unbroken) -> Outcome:
        data = own_data(root, policy)
        cut(sorted(data.glob("images/train/*"))[3])
        run = Run(root, f"jpeg-{policy}", 1, ("--set", f"loader.on_error={policy}"), data).start()
        outcome = run.ended(time.monotonic())
        if policy == "skip":
            lines = [line for line in (run.folder / "log.jsonl").read_text().splitlines() if '"left out"' in line]
            named = re.search(r"left out: (.*)", run.output())
            outcome.said = f"{outcome.said}; {len(lines)} records in log.jsonl; stderr: left out: {named and named[1]}"
            outcome.said = outcome.said.replace(f"{root}/", "")
        return outcome

    return fault


def lost_file(root: Path, whole: Unbroken) -> Outcome:
    """Take images away while they are read, and put them back."""
    data, aside = own_data(root, "lost"), root / "aside"
    run = Run(root, "lost-file", 1, (), data).start().until(2)
    outcome = run.struck(lambda _: (data / "images" / "train").rename(aside) and None)
    aside.rename(data / "images" / "train")
    outcome.equal = run.goes_on_like(whole[1])
    return outcome


def hanging_file(root: Path, whole: Unbroken) -> Outcome:
    """Put a pipe that nobody writes to in the place of an image, as a file server does that has gone."""
    data = own_data(root, "hanging")
    path = sorted(data.glob("images/train/*"))[3]
    run = Run(root, "hanging-file", 1, ("--set", "loader.timeout_s=5"), data).start().until(2)
    image = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    outcome = run.ended(time.monotonic())
    path.unlink()
    path.write_bytes(image)
    run.more = ()
    outcome.equal = run.goes_on_like(whole[1])
    return outcome


@contextmanager
def small_disk(at: Path, options: str) -> Iterator[None]:
    """Mount a disk of memory."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "hfseg-faults", at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


def full_disk(root: Path, whole: Unbroken) -> Outcome:
    """Let the disk run full at the second checkpoint, then make room."""
    with small_disk(root / "small", "size=80m"):
        run = Run(root, "small/run").start()
        outcome = run.ended(time.monotonic())
        subprocess.run(["mount", "-o", "remount,size=1g", root / "small"], check=True)
        outcome.equal = run.goes_on_like(whole[1])
    return outcome


def read_only(root: Path, whole: Unbroken) -> Outcome:
    """Start a run where nothing can be written."""
    with small_disk(root / "sealed", "ro"):
        done = subprocess.run(
            [*HFSEG, "finetune", "--config", root / "config.yaml", "--output", root / "sealed" / "run"],
            capture_output=True, text=True, env=ENVIRONMENT,
        )  # fmt: skip
    said = done.stderr.strip().splitlines()[0].removeprefix("error: ").replace(f"{root}/", "")
    return Outcome(said, done.returncode, 0.0)


def bit_flips(root: Path, whole: Unbroken) -> Outcome:
    """Flip one bit in each file of a run's newest checkpoint in turn, and go on from the one before."""
    source = Run(root, "flips").start().until(9)
    source.struck(send(Run.members, signal.SIGKILL))
    step, results = newest(source), []
    files = sorted(path.name for path in (source.folder / "checkpoints" / f"step-{step:06d}").iterdir())
    for name in files:
        run = Run(root, f"flip-{name}")
        shutil.copytree(source.folder, run.folder)
        path = run.folder / "checkpoints" / f"step-{step:06d}" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        results.append(run.goes_on_like(whole[1]))
        assert "is damaged" in run.output(), run.output()
    equal = "yes" if set(results) == {"yes"} else "; ".join(map(": ".join, zip(files, results, strict=True)))
    return Outcome(f"each of {', '.join(files)}: named as damaged, the one before is taken", 0, 0.0, equal)


def out_of_memory(root: Path, whole: Unbroken) -> Outcome:
    """Train on crops for which there is not enough memory."""
    run = Run(root, "memory", 1, ("--crop-size", "6144", "--set", "loader.workers=0"))
    began = time.monotonic()
    run.start()
    psutil.Process(run.process.pid).rlimit(psutil.RLIMIT_AS, (8 << 30, 8 << 30))
    return run.ended(began)


def faults(kills: int) -> dict[str, Fault]:
    """Name every fault."""
    term, kill, stop = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP
    patience = ("--set", "loader.timeout_s=5")
    return {
        f"one process killed at {kills // 2} random moments": killed_often(1, kills // 2),
        f"two processes: one rank or all killed at {kills - kills // 2} random moments": killed_often(2, kills - kills // 2),
        "one of two ranks killed": signalled("one-rank", 2, one_rank, kill),
        "SIGTERM to the run": signalled("term", 1, launcher, term),
        "SIGTERM to every process of the run, loader workers too": signalled("term-all", 1, Run.members, term),
        "SIGTERM to torchrun with two ranks": signalled("term-two", 2, launcher, term),
        "a loader worker killed": signalled("worker", 1, one_worker, kill),
        "a loader worker of one of two ranks killed": signalled("worker-two", 2, one_worker, kill),
        "a loader worker stopped (SIGSTOP), `loader.timeout_s=5`": signalled("stop", 1, one_worker, stop, *patience),
        "an image whose reading hangs, `loader.timeout_s=5`": hanging_file,
        "a second run on the same output": second_run(),
        "a second run on the same output, --resume": second_run("--resume"),
        "a JPEG that is cut off, `loader.on_error=error`": broken_jpeg("error"),
        "a JPEG that is cut off, `loader.on_error=skip`": broken_jpeg("skip"),
        "images that disappear in the middle of an epoch": lost_file,
        "the disk runs full while saving": full_disk,
        "the output is read-only": read_only,
        "a bit flips in a checkpoint": bit_flips,
        "out of memory": out_of_memory,
    }  # fmt: skip


def write_data(root: Path) -> None:
    """Write the demo images into folders, as JPEG, and the settings of runs on them."""
    (root / "config.yaml").write_text(SETTINGS.format(data=root / "data"))
    for split, folder in (("train", "train"), ("validation", "val")):
        dataset = DemoConfig().open(split)
        for kind in ("images", "masks"):
            (root / "data" / kind / folder).mkdir(parents=True)
        for index in range(len(dataset)):
            record = dataset.record(index)
            shutil.copy(record.image["path"], root / "data" / "images" / folder)
            shutil.copy(record.label["path"], root / "data" / "masks" / folder)


def main() -> None:
    """Strike, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", default="", help="the faults whose name holds this text")
    options = parser.parse_args()
    chosen = {name: fault for name, fault in faults(options.kills).items() if options.only in name}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root)
        whole = Unbroken(root)
        print("| fault | what the run said | exit code | seconds | goes on to equal weights |\n|---|---|---|---|---|")
        for name, fault in chosen.items():
            found = fault(root, whole)
            said = " ".join(found.said.split()).replace("|", "/")
            print(f"| {name} | {said} | {found.code} | {found.seconds:.1f} | {found.equal} |", flush=True)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "accelerate", "transformers"))
    print(f"\n{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
          f"{time.monotonic() - began:.0f} s in all")  # fmt: skip


if __name__ == "__main__":
    main()
