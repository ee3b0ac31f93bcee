"""Cross entropy or Dice on an imbalanced road scene? Several losses, models and seeds on CamVid, as one table.

Members that are finished are not run again, so that the study can be stopped and gone on with.

    python scripts/bench_losses.py --data-dir CamVid --weights deeplabv3_mobilenet_v2_1.0_513_voc --output study
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfseg.recipes import evaluate, finetune
from hfseg.recipes.run import FinetuneConfig

LOSSES: dict[str, dict[str, Any]] = {
    "ce": {"terms": "ce"},
    "weighted ce": {"terms": "ce", "class_weights": "auto"},
    "focal": {"terms": "focal"},
    "dice": {"terms": "dice"},
    "ce+dice": {"terms": "ce+dice"},
}
RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")
"""The classes of CamVid with less than 2 % of its pixels each."""


@dataclass(frozen=True)
class Member:
    """One run of the study."""

    model: str
    loss: str
    seed: int

    @property
    def name(self) -> str:
        """The folder of the run."""
        return f"{self.model}-{self.loss.replace(' ', '-').replace('+', '-')}-{self.seed}"


def members(models: list[str], seeds: int) -> Iterator[Member]:
    """Give every run, all losses of one seed before the next seed, so that a part of the study is fair too."""
    for seed in range(seeds):
        for model in models:
            for loss in LOSSES:
                yield Member(model, loss, seed)


def settings(member: Member, arguments: argparse.Namespace) -> FinetuneConfig:
    """Put a run together; the losses differ in nothing else."""
    models = {
        "mobilenet": {"kind": "checkpoint", "checkpoint": str(arguments.weights)},
        "segformer-b0": {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none"},
    }
    height, width = arguments.height, arguments.height * 4 // 3
    flags = {
        "output": str(arguments.output / member.name),
        "seed": member.seed,
        "data": {"kind": "camvid", "data_dir": str(arguments.data_dir)},
        "augment": {"short_side": height, "crop_size": [height, width]},
        "loader": {"batch_size": 8, "workers": 1},
        "model": models[member.model],
        "loss": LOSSES[member.loss],
        "optim": {"lr": 1e-3, "warmup_steps": 20},
        "train": {"epochs": arguments.epochs, "eval_every": 10_000},
        "samples": 0,
        "runtime": {"cpu": arguments.cpu},
    }
    return FinetuneConfig.load(flags=flags)


def result(member: Member, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score a member on the test part, or read what it scored before."""
    folder = arguments.output / member.name
    path = folder / "test" / "metrics.json"
    if not path.is_file():
        finetune.run(settings(member, arguments), resume=(folder / "config.yaml").is_file())
        scored = {
            "model": str(folder / "last"),
            "split": "test",
            "output": path.parent,
            "worst": 0,
            "verify_data": False,
        }
        evaluate.run(evaluate.EvaluateConfig.model_validate({**scored, "runtime": {"cpu": arguments.cpu}}))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def table(found: dict[Member, dict[str, Any]]) -> str:
    """Write a row for each model and loss: means over the seeds and the spread between them, in %."""
    lines = [
        f"| model | loss | seeds | mIoU | against ce | rare classes | {' | '.join(RARE)} | boundary IoU |",
        f"|---|---|---|---|---|---|{'---|' * len(RARE)}---|",
    ]
    for model, loss in dict.fromkeys((member.model, member.loss) for member in found):
        runs = {
            member.seed: metrics for member, metrics in found.items() if (member.model, member.loss) == (model, loss)
        }
        plain = {m.seed: metrics["mean_iou"] for m, metrics in found.items() if (m.model, m.loss) == (model, "ce")}
        against = [runs[seed]["mean_iou"] - plain[seed] for seed in runs if seed in plain]
        by_class = [{row["name"]: row["iou"] for row in metrics["classes"]} for metrics in runs.values()]
        rare = [statistics.fmean(ious[name] for name in RARE) for ious in by_class]
        cells = [
            model,
            loss,
            str(len(runs)),
            spread([metrics["mean_iou"] for metrics in runs.values()]),
            "" if loss == "ce" else spread(against, sign=True),
            spread(rare),
            *(spread([ious[name] for ious in by_class]) for name in RARE),
            spread([metrics["boundary_iou"] for metrics in runs.values()]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], *, sign: bool = False) -> str:
    """Write the mean, and the standard deviation between seeds."""
    mean = f"{100 * statistics.fmean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def main() -> None:
    """Run what is missing of the study and print its table after every member."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a MobileNetV2-DeepLab folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["mobilenet", "segformer-b0"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found: dict[Member, dict[str, Any]] = {}
    for member in members(arguments.models, arguments.seeds):
        found[member] = result(member, arguments)
        (arguments.output / "table.md").write_text(table(found) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
