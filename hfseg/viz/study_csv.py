"""The tables of a comparison as CSV: members, pairs and classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hfseg.viz.study_cells import Comparison, Member, mean_over_runs
from hfseg.viz.study_text import ranked
from hfseg.viz.tables import csv_text


def members_csv(comparison: Comparison) -> str:
    """Write a row for each member; shares in %, empty where something was not found."""
    header = (
        "member", "mean_iou_percent", "low_percent", "high_percent", "seed_spread_percent", "seeds",
        "pixel_accuracy_percent", "parameters", "trainable", "macs", "frame_macs", "latency_ms", "latency_lower_ms",
        "latency_upper_ms", "frames_per_s", "inference_memory_mib", "training_memory_mib", "training_images_per_s",
        "training_s", "joules_per_image", "error",
    )  # fmt: skip
    return csv_text(header, [_csv_row(member) for member in ranked(comparison)])


def pairs_csv(comparison: Comparison) -> str:
    """Write a row for each pair of members."""
    keys = ("one", "other", "difference", "low", "high", "p_value", "adjusted", "verdict")
    rows = [{**pair, "low": pair["interval"][0], "high": pair["interval"][1]} for pair in comparison["pairs"]]
    return csv_text(keys, [[row[key] for key in keys] for row in rows])


def classes_csv(comparison: Comparison) -> str:
    """Write a row for each class: the winner, and the IoU of each member in %."""
    members = [member for member in ranked(comparison) if member["mean_iou"] is not None]
    rows = [
        (
            row["name"],
            row["label_pixels"],
            row["winner"] or "",
            row.get("is_clear", ""),
            *(_share(m["per_category_iou"][k]) for m in members),
        )
        for k, row in enumerate(comparison["classes"])
    ]
    return csv_text(("class", "label_pixels", "winner", "is_clear", *(member["name"] for member in members)), rows)


def _csv_row(member: Member) -> Sequence[Any]:
    runs, times, interval = member["runs"], member.get("latency") or {}, member.get("interval") or (None, None)
    return (
        member["name"], _share(member["mean_iou"]), *map(_share, interval), _share(member.get("spread")),
        " ".join(str(seed) for seed in member.get("seeds", ())), _share(member.get("overall_accuracy")),
        _first(runs, "parameters"), _first(runs, "trainable"), member.get("macs", ""),
        member.get("frame_macs", ""), *(times.get(key, "") for key in ("median_ms", "lower_ms", "upper_ms")),
        member.get("frames_per_s", ""), member.get("memory_mb", ""),
        *(mean_over_runs(member, key) or "" for key in ("train_memory_mb", "images_per_s", "train_seconds")),
        member.get("joules", ""), member["error"] or "",
    )  # fmt: skip


def _first(runs: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((run[key] for run in runs if run.get(key) is not None), "")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
