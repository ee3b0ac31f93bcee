"""What the row of a member shows, column by column: on a terminal and on the page."""

from collections.abc import Mapping
from typing import Any

from hfseg.viz.numbers import percent, short_count, span, three_digits

Comparison = Mapping[str, Any]
"""What `compare.json` holds."""
Member = Mapping[str, Any]
COLUMNS = (
    "member", "mIoU", "interval", "seeds", "accuracy", "parameters", "trained", "MACs", "frame MACs", "latency",
    "quartiles", "frames/s", "memory", "energy", "images/s", "training memory",
)  # fmt: skip
"""What there can be for a member; a column that nobody has is left out, and `notes` say so."""
BENEATH = {
    "interval": "mIoU", "trained": "parameters", "frame MACs": "MACs", "quartiles": "latency",
    "training memory": "images/s",
}  # fmt: skip
"""Columns that a page shows as a second line of another one."""


def columns(comparison: Comparison) -> list[str]:
    """Choose the columns that some member has something for."""
    rows = [cells(member) for member in comparison["members"]]
    is_scored = any(member["mean_iou"] is not None for member in comparison["members"])
    return [name for name in COLUMNS if any(row[name] for row in rows) and (is_scored or name != "mIoU")]


def cells(member: Member) -> dict[str, str]:
    """Write what a member's row shows, by column."""
    facts: Mapping[str, Any] = next((run for run in member["runs"] if run.get("parameters")), {})
    speed, peak = mean_over_runs(member, "images_per_s"), mean_over_runs(member, "train_memory_mb")
    return {
        "member": member["name"],
        **_score_cells(member),
        "parameters": short_count(facts["parameters"]) if facts else "",
        "trained": short_count(facts["trainable"]) if facts else "",
        "MACs": _macs(member, "macs"),
        "frame MACs": _macs(member, "frame_macs") if has_own_frames(member) else "",
        **_time_cells(member),
        "frames/s": three_digits(member["frames_per_s"]) if member.get("frames_per_s") else "",
        "memory": f"{member['memory_mb']:.0f} MiB" if member.get("memory_mb") else "",
        "energy": f"{member['joules']:.3g} J" if member.get("joules") is not None else "",
        "images/s": three_digits(speed) if speed else "",
        "training memory": f"{peak:.0f} MiB" if peak else "",
    }


def _score_cells(member: Member) -> dict[str, str]:
    if member["mean_iou"] is None:
        return {"mIoU": "failed" if member["error"] else "", "interval": "", "seeds": "", "accuracy": ""}
    return {
        "mIoU": percent(member["mean_iou"]),
        "interval": span(member["interval"]),
        "seeds": f"{len(member['seeds'])}/{len(member['runs'])}",
        "accuracy": percent(member["overall_accuracy"]),
    }


def _time_cells(member: Member) -> dict[str, str]:
    times = member.get("latency")
    if not times:
        return {"latency": "", "quartiles": ""}
    median, lower, upper = (three_digits(times[key]) for key in ("median_ms", "lower_ms", "upper_ms"))
    return {"latency": f"{median} ms", "quartiles": f"{lower} to {upper}"}


def sort_keys(member: Member) -> dict[str, Any]:
    """Give the numbers by which the rows of a page are sorted, by column; what is not known comes last."""
    latency = (member.get("latency") or {}).get("median_ms", -1)
    return {
        "member": member["name"],
        "mIoU": -1 if member["mean_iou"] is None else member["mean_iou"],
        "interval": (member.get("interval") or [-1])[0],
        "seeds": len(member.get("seeds", ())),
        "accuracy": member.get("overall_accuracy") or -1,
        "parameters": mean_over_runs(member, "parameters") or -1,
        "trained": mean_over_runs(member, "trainable") or -1,
        "MACs": member.get("macs") or -1,
        "frame MACs": member.get("frame_macs") or -1,
        "latency": latency,
        "quartiles": latency,
        "frames/s": member.get("frames_per_s") or -1,
        "memory": member.get("memory_mb") or -1,
        "energy": member.get("joules", -1),
        "images/s": mean_over_runs(member, "images_per_s") or -1,
        "training memory": mean_over_runs(member, "train_memory_mb") or -1,
    }


def has_own_frames(member: Member) -> bool:
    """Tell whether the next frame of a video takes other work than an image as it is evaluated."""
    return bool(member.get("frame_macs")) and member["frame_macs"] != member["macs"]


def mean_over_runs(member: Member, key: str) -> float | None:
    """Average a fact over the runs that recorded it."""
    values = [run[key] for run in member["runs"] if run.get(key) is not None]
    return sum(values) / len(values) if values else None


def _macs(member: Member, key: str) -> str:
    """Write multiply-accumulates, with a mark where operators were not counted."""
    if member.get(key) is None:
        return ""
    return short_count(member[key]) + (" or more" if member["uncounted"] else "")
