"""Is a student with a teacher better than alone, and what does the teacher cost? A few seeds on CamVid, as one table.

Members that are finished are not run again, so that the study can be stopped and gone on with.

    python scripts/bench_distillation.py --data-dir CamVid --teacher runs/mobilenet --output study
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hfseg.metrics.areas import iou_of
from hfseg.recipes import evaluate, finetune
from hfseg.recipes.evidence import COUNTS
from hfseg.recipes.run import FinetuneConfig

ALONE = "alone"
METHODS: dict[str, dict[str, float]] = {ALONE: {}, "kd": {"kd": 1}, "kd+cwd": {"kd": 1, "cwd": 3}}
NARROW = {"hidden_sizes": [16, 32, 80, 128], "decoder_hidden_size": 128}
STUDENTS: dict[str, dict[str, Any]] = {
    "segformer-b0": {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none"},
    "segformer-narrow": {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none", "overrides": NARROW},
}
RESAMPLES, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Member:
    """One run of the study."""

    student: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """The folder of the run."""
        return f"{self.student}-{self.method.replace('+', '-')}-{self.seed}"


@dataclass(frozen=True)
class Found:
    """What a run reached on the test part, and what its teacher cost."""

    mean_iou: float
    areas: Tensor
    """Pixels hit, labelled and predicted of each class in each image."""
    teacher_ms: float | None
    teacher_share: float | None


def members(students: list[str], methods: list[str], seeds: int) -> Iterator[Member]:
    """Give every run, all methods of one seed before the next seed, so that a part of the study is fair too."""
    for seed in range(seeds):
        for student in students:
            for method in methods:
                yield Member(student, method, seed)


def settings(member: Member, arguments: argparse.Namespace) -> FinetuneConfig:
    """Put a run together; with and without a teacher they differ in nothing else."""
    height, width = arguments.height, arguments.height * 4 // 3
    teacher = {} if member.method == ALONE else {"teacher": str(arguments.teacher)}
    flags = {
        "output": str(arguments.output / member.name),
        "seed": member.seed,
        "data": {"kind": "camvid", "data_dir": str(arguments.data_dir)},
        "augment": {"short_side": height, "crop_size": [height, width]},
        "loader": {"batch_size": 8, "workers": 1},
        "model": STUDENTS[member.student],
        "distill": {**teacher, **METHODS[member.method]},
        "optim": {"lr": 1e-3, "warmup_steps": 20},
        "train": {"epochs": arguments.epochs, "eval_every": 10_000, "log_every": 5},
        "samples": 0,
        "runtime": {"cpu": arguments.cpu},
    }
    return FinetuneConfig.load(flags=flags)


def result(member: Member, arguments: argparse.Namespace) -> Found:
    """Train and score a member on the test part, or read what it scored before."""
    folder = arguments.output / member.name
    path = folder / "test" / "metrics.json"
    if not path.is_file():
        finetune.run(settings(member, arguments), resume=(folder / "config.yaml").is_file())
        scored = {"model": str(folder / "last"), "split": "test", "output": path.parent, "worst": 0}
        flags = {**scored, "verify_data": False, "runtime": {"cpu": arguments.cpu}}
        evaluate.run(evaluate.EvaluateConfig.model_validate(flags))
    mean_iou = json.loads(path.read_text(encoding="utf-8"))["mean_iou"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "train" and "teacher_ms" in line][1:]  # the first is slow
    costs = [
        statistics.median(line[key] for line in steps) if steps else None for key in ("teacher_ms", "teacher_share")
    ]
    return Found(mean_iou, load_file(path.with_name(COUNTS))["areas"], *costs)


def interval(pairs: list[tuple[Found, Found]]) -> tuple[float, float]:
    """Find where the mean difference of mIoU over the seeds lies, from drawing seeds and images with replacement."""
    areas = torch.stack([torch.stack([one.areas, other.areas]) for one, other in pairs]).double()
    generator = torch.Generator().manual_seed(0)
    means = torch.empty(RESAMPLES, dtype=torch.float64)
    for number in range(RESAMPLES):
        seeds = torch.randint(len(pairs), (len(pairs),), generator=generator)
        weights = torch.randint(areas.shape[2], (areas.shape[2],), generator=generator).bincount(
            minlength=areas.shape[2]
        )
        summed = torch.einsum("n,spnac->spac", weights.double(), areas[seeds])
        scores = iou_of(summed.flatten(0, 1)).nanmean(-1).view(-1, 2)
        means[number] = (scores[:, 0] - scores[:, 1]).mean()
    tail = (1 - LEVEL) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def table(found: dict[Member, Found]) -> str:
    """Write a row for each student and method, in %: mean over the seeds, and the difference with its interval."""
    lines = [
        "| student | method | seeds | mIoU | against alone | 95 % interval | teacher, ms a batch | share of a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for student, method in dict.fromkeys((member.student, member.method) for member in found):
        runs = {m.seed: run for m, run in found.items() if (m.student, m.method) == (student, method)}
        alone = {m.seed: run for m, run in found.items() if (m.student, m.method) == (student, ALONE)}
        pairs = [(runs[seed], alone[seed]) for seed in runs if seed in alone and method != ALONE]
        cells = [student, method, str(len(runs)), spread([run.mean_iou for run in runs.values()])]
        if pairs:
            low, high = interval(pairs)
            cells += [
                spread([a.mean_iou - b.mean_iou for a, b in pairs], sign=True),
                f"{100 * low:+.2f} to {100 * high:+.2f}",
            ]
            cells.append(f"{statistics.fmean(run.teacher_ms or 0 for run in runs.values()):.0f}")
            cells.append(f"{100 * statistics.fmean(run.teacher_share or 0 for run in runs.values()):.0f} %")
        lines.append(f"| {' | '.join([*cells, *[''] * (8 - len(cells))])} |")
    return "\n".join(lines)


def spread(values: list[float], *, sign: bool = False) -> str:
    """Write the mean, and the standard deviation between seeds."""
    mean = f"{100 * statistics.fmean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main() -> None:
    """Run what is missing of the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="a model fine-tuned on CamVid's 11 classes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--students", nargs="+", choices=list(STUDENTS), default=["segformer-b0"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found: dict[Member, Found] = {}
    for member in members(arguments.students, arguments.methods, arguments.seeds):
        found[member] = result(member, arguments)
        (arguments.output / "table.md").write_text(table(found) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
