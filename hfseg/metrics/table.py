"""Everything that counts of a whole set say, in the form that `metrics.json` keeps."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from jaxtyping import Int
from torch import Tensor

from hfseg.metrics.areas import iou_of
from hfseg.metrics.bootstrap import BootstrapConfig, Interval
from hfseg.metrics.images import ImageScores
from hfseg.metrics.scores import Scores, constant_baseline, number


def score_table(
    totals: Mapping[str, Int[Tensor, "..."]],
    images: Mapping[str, Int[Tensor, "n ..."]],
    *,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    boundary_width: float | None = None,
    bootstrap: BootstrapConfig | None = None,
) -> dict[str, Any]:
    """Score what `Counting` counted over a set: `totals` are added up, `images` are one below the other.

    Without `boundary_width`, which must be that of the count, there are no boundary scores; without `bootstrap` there
    are no intervals. A score that is not defined is None.
    """
    scores, constant = Scores.from_confusion(totals["confusion"]), constant_baseline(totals["confusion"])
    table = scores.to_dict(names, palette)
    over_images = ImageScores.from_areas(images["areas"])
    table["mean_iou_over_images"] = number(over_images.mean_iou_over_images)
    table["class_mean_iou_over_images"] = number(over_images.class_mean_iou_over_images)
    if boundary_width is not None:
        _add_boundary(table, images["boundary"], boundary_width)
    if bootstrap is not None:
        _add_intervals(table, images["areas"], bootstrap)
    always = names[constant.predicted_pixels.index(max(constant.predicted_pixels))]
    table["baseline"] = {
        "class": always,
        "mean_iou": number(constant.mean_iou),
        "overall_accuracy": number(constant.overall_accuracy),
    }
    return {**table, "classes": table.pop("classes"), "confusion": totals["confusion"].tolist()}


def corruption_table(clean: float, found: Sequence[tuple[str, int, float]]) -> dict[str, Any]:
    """Put mIoU under each (corruption, severity) beside the clean one: `drop` is the share of it that is lost.

    `corruptions` has a row for each, `corruption_means` one for each corruption over its severities, and last, named
    `all`, the mean of these.

    Raises:
        ValueError: nothing was found.
    """
    if not found:
        raise ValueError("there is no corruption to compare with the clean score: got none")
    by_name: dict[str, list[float]] = {}
    for name, _, mean_iou in found:
        by_name.setdefault(name, []).append(mean_iou)
    means = {name: fmean(values) for name, values in by_name.items()}
    means["all"] = fmean(means.values())
    return {
        "corruptions": [
            {"name": name, "severity": severity, **_loss(clean, mean_iou)} for name, severity, mean_iou in found
        ],
        "corruption_means": [{"name": name, **_loss(clean, mean_iou)} for name, mean_iou in means.items()],
    }


def _loss(clean: float, mean_iou: float) -> dict[str, float | None]:
    return {"mean_iou": number(mean_iou), "drop": number((clean - mean_iou) / clean) if clean else None}


def _add_boundary(table: dict[str, Any], areas: Int[Tensor, "n 3 k"], width: float) -> None:
    """Add boundary IoU over the data set: bands of all images are added up before they are divided."""
    iou = iou_of(areas.cpu().sum(0))
    table["boundary_iou"] = number(float(iou.nanmean()))
    table["boundary_width"] = f"{100 * width:g} % of the diagonal"
    for row, value in zip(table["classes"], iou.tolist(), strict=True):
        row["boundary_iou"] = number(value)


def _add_intervals(table: dict[str, Any], areas: Int[Tensor, "n 3 k"], bootstrap: BootstrapConfig) -> None:
    found = bootstrap.intervals(areas)
    table["mean_iou_interval"] = _pair(found.mean_iou)
    table["overall_accuracy_interval"] = _pair(found.overall_accuracy)
    table["bootstrap"] = bootstrap.model_dump()
    for row, interval in zip(table["classes"], found.per_category_iou, strict=True):
        row["iou_interval"] = _pair(interval)


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None or interval[0] != interval[0] else list(interval)
