"""What a run folder says, in the words and numbers of the report's first screen."""

import hashlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hfseg.viz.numbers import count, interval_words, parameter_totals, percent, protocol_words, short_count
from hfseg.viz.run import RunFolder, best_validation


@dataclass(frozen=True)
class Score:
    """One of the main numbers, and what stands beside it."""

    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class Fact:
    """A name and its value, as text."""

    name: str
    value: str


def scores(run: RunFolder) -> list[Score]:
    """Give the main numbers: of `metrics.json`, or of the best validation while there is none, or nothing."""
    if run.metrics is not None:
        return _final_scores(run.metrics)
    if run.validations:
        best = best_validation(run.validations)
        beside = f"validation at step {count(best['step'])}"
        names = {"mIoU": "mean_iou", "Pixel accuracy": "overall_accuracy", "Mean class accuracy": "mean_accuracy"}
        return [Score(name, percent(best[key]), beside) for name, key in names.items()]
    return []


def lead(run: RunFolder) -> str:
    """Say in a sentence or two what the numbers are about."""
    if run.metrics is not None:
        data = run.metrics["dataset"]
        images = f"{count(data['images'])} image{'s' if data['images'] != 1 else ''}"
        return (
            f"Scores of {run.metrics['model']} on {images}: the {data['split']} part of the {data['kind']} data "
            f"(inference: {protocol_words(run.metrics)})."
        )
    if run.validations:
        return "No final evaluation yet: the numbers are those of the best validation so far."
    if run.train:
        return f"No validation has been run yet; training has reached step {count(run.train[-1]['step'])}."
    return "Nothing has been trained yet."


def notices(run: RunFolder) -> list[str]:
    """Say what is missing from this run, and what interrupted it."""
    found = []
    last = run.records[-1] if run.records else None
    if last is not None and last["event"] == "stop":
        found.append(f"Stopped at step {count(last['step'])}: {last.get('reason', 'no reason was logged')}.")
    if run.metrics is None:
        found.append(f"There is no metrics.json yet: the end of training writes it, and hfseg evaluate {_quoted(run)}.")
    return found


def facts(run: RunFolder) -> list[Fact]:
    """Give the run's facts in the order in which a reader asks for them."""
    config = _config(run)
    found = [Fact(section, text) for section in ("model", "data") if (text := _section_words(config.get(section)))]
    if run.train:
        last = run.train[-1]
        epochs = "" if last["epoch"] is None else f", {last['epoch']:.1f} epochs"  # a stream has none
        found.append(Fact("trained", f"{count(last['step'])} steps{epochs}"))
        speeds = [record["images_per_s"] for record in run.train if record.get("images_per_s")]
        if speeds:
            found.append(Fact("speed", f"{statistics.median(speeds):.1f} images/s in training (median)"))
    if run.parameters is not None:
        total, trainable = parameter_totals(run.parameters)
        found.append(Fact("parameters", f"{short_count(trainable)} of {short_count(total)} trained"))
    resumed = [count(record["step"]) for record in run.records if record["event"] == "resume"]
    if resumed:
        found.append(Fact("resumed", f"at step {', '.join(resumed)}"))
    return [*found, Fact("config hash", config_hash(run))]


def environment(run: RunFolder) -> list[Fact]:
    """Give the environment as it was written down."""
    return [Fact(str(name), str(value)) for name, value in run.env.items()]


def config_hash(run: RunFolder) -> str:
    """Give the first twelve digits of the config file's SHA-256."""
    return hashlib.sha256(run.config_text.encode()).hexdigest()[:12]


def repeat_command(run: RunFolder) -> str:
    """Give the command that trains the same run again into another folder."""
    return f"hfseg finetune --config {shlex.quote(str(run.directory / 'config.yaml'))} --output other"


def _quoted(run: RunFolder) -> str:
    return shlex.quote(str(run.directory))


def _final_scores(metrics: Mapping[str, Any]) -> list[Score]:
    """Give the scores over the data set, then those by other definitions where they were found."""
    baseline = metrics["baseline"]
    always = f"always “{baseline['class']}”: "
    beside = {key: always + percent(baseline[key]) for key in ("mean_iou", "overall_accuracy")}
    for key in beside:
        interval = interval_words(metrics, key)
        beside[key] = f"{interval}; {beside[key]}" if interval else beside[key]
    found = [
        Score("mIoU", percent(metrics["mean_iou"]), beside["mean_iou"]),
        Score("Pixel accuracy", percent(metrics["overall_accuracy"]), beside["overall_accuracy"]),
        Score("Mean class accuracy", percent(metrics["mean_accuracy"]), _class_words(metrics["classes"])),
    ]
    if "boundary_iou" in metrics:
        width = f"in bands along outlines, {metrics['boundary_width']} wide"
        found.append(Score("Boundary IoU", percent(metrics["boundary_iou"]), width))
    if "mean_iou_over_images" in metrics:
        found.append(Score("mIoU over images", percent(metrics["mean_iou_over_images"]), "each image scored alone"))
    return found


def _class_words(classes: Sequence[Mapping[str, Any]]) -> str:
    """Say how many classes there are, and how many of them lack labels or predictions."""
    words = [f"{len(classes)} class{'es' if len(classes) != 1 else ''}"]
    for state in ("absent", "only predicted", "never predicted"):
        number = sum(row["state"] == state for row in classes)
        words += [f"{number} {state}"] if number else []
    return ", ".join(words)


def _config(run: RunFolder) -> Mapping[str, Any]:
    """Read the config for display only; what is no mapping shows nothing here and stands in full further down."""
    try:
        tree = yaml.safe_load(run.config_text)
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _section_words(section: Any) -> str:
    """Write a section's kind and what it is made of, such as `upernet, convnextv2-base`."""
    if not isinstance(section, dict):
        return ""
    keys = ("kind", "backbone", "checkpoint", "name", "data_dir")
    return ", ".join(str(section[key]) for key in keys if section.get(key))
