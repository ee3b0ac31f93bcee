"""What an evaluation leaves beside its scores: counts of every image, pictures of what went wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hfseg.data import TableDataset
from hfseg.engine.checkpoint import write_file
from hfseg.engine.evaluation import Evaluation
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.metrics import BootstrapConfig, Difference, ImageAreas, ImageScores
from hfseg.values import Clip, Sample
from hfseg.viz import confusion_map, corruptions_csv, csv_text, worst_heading, worst_picture, write_png

COUNTS = "counts.safetensors"
Predict = Callable[[Sample | Clip], Integer[np.ndarray, "h w"]]
"""What was predicted for a sample."""


def write_counts(evaluation: Evaluation, metrics: dict[str, Any], folder: Path) -> None:
    """Write what was counted of every image, which another evaluation can be compared with, and its scores as CSV."""
    facts = {"ids": json.dumps(evaluation.ids), "protocol": metrics["protocol"]["text"], "model": metrics["model"]}
    fresh = folder / f".{COUNTS}.new"
    save_file({name: counts.contiguous() for name, counts in evaluation.images.items()}, fresh, metadata=facts)
    fresh.replace(folder / COUNTS)
    ious = ImageScores.from_areas(evaluation.images["areas"]).ious.tolist()
    hits, labelled = evaluation.images["areas"].sum(-1)[:, :2].unbind(1)
    if "corruptions" in metrics:
        write_file(folder / "corruptions.csv", corruptions_csv(metrics))
    rows = zip(evaluation.ids, ious, hits.tolist(), labelled.tolist(), strict=True)
    write_file(folder / "images.csv", csv_text(("id", "miou", "correct_pixels", "labelled_pixels"), list(rows)))


def compare_with(
    folder: Path, evaluation: Evaluation, metrics: dict[str, Any], bootstrap: BootstrapConfig
) -> dict[str, Any]:
    """Compare with an earlier evaluation of the same images, image by image.

    Raises:
        DataError: there is none, it was made on other images or labels, or under another protocol, or nothing is
            labelled.
    """
    theirs, facts = read_counts(folder)
    ours = metrics["protocol"]["text"]
    if facts["protocol"] != ours:
        raise DataError(
            f"scores under different protocols cannot be compared: `{folder}` has `{facts['protocol']}`, got `{ours}`",
            hint="evaluate both models under one protocol: --protocol, --short-side, --scales, --flip",
        )
    try:
        found: Difference = bootstrap.difference(ImageAreas(evaluation.ids, evaluation.images["areas"]), theirs)
    except ValueError as error:
        hint = "both models must be scored on the same part of the same data set, with the same classes"
        raise DataError(f"`{folder}` cannot be compared with: {error}", hint=hint) from None
    if found.difference != found.difference:
        raise DataError(f"`{folder}` cannot be compared with: no image has a labelled pixel, so no model has an mIoU")
    return {"model": facts["model"], **found.to_dict()}


def draw_confusion(evaluation: Evaluation, space: LabelSpace, folder: Path) -> None:
    """Draw which classes are taken for which."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    matrix = evaluation.totals["confusion"].numpy()
    write_png(confusion_map(matrix, space.names), folder / "plots" / "confusion.png")


def draw_worst(
    evaluation: Evaluation, dataset: TableDataset, folder: Path, *, count: int, protocol: str, predict: Predict
) -> None:
    """Draw the images of the lowest IoU beside their labels, predictions and errors, the worst first."""
    number_of = {name: number for number, name in enumerate(evaluation.ids)}
    ranked = ImageScores.from_areas(evaluation.images["areas"]).worst(evaluation.ids, count)
    for rank, (name, iou) in enumerate(ranked, start=1):
        sample = dataset[number_of[name]]
        heading = worst_heading(name, iou, rank=rank, num_images=len(evaluation.ids), protocol=protocol)
        picture = worst_picture(sample.image, predict(sample), sample.labels, dataset.labels, heading=heading)
        target = folder / "worst" / f"{rank:02d}-{Path(name).name}.jpg"
        target.parent.mkdir(exist_ok=True)
        picture.save(target, quality=90)


def read_counts(folder: Path) -> tuple[ImageAreas, dict[str, str]]:
    """Read what `write_counts` wrote, and its facts: `protocol` and `model`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / COUNTS
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            return ImageAreas(tuple(json.loads(facts["ids"])), file.get_tensor("areas").to(torch.int64)), facts
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise DataError(
            f"there is no evaluation to compare with in `{folder}`: `{COUNTS}` cannot be read ({error})",
            hint="give the --output folder of an earlier `hfseg evaluate`, or a run folder",
        ) from None
