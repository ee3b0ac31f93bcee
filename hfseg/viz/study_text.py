"""What a comparison says, in words and as a table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from hfseg.viz.numbers import count, percent, points, short_count, span
from hfseg.viz.tables import plain_table

Comparison = Mapping[str, Any]
"""What `compare.json` holds."""
Member = Mapping[str, Any]
TIED = "not distinguishable"
MAX_NAMED = 4
"""Members that are named in a sentence; more are counted."""
NOT_REPORTED = "not reported"
COLUMNS = (
    "member", "mIoU", "interval", "seeds", "accuracy", "parameters", "trained", "MACs", "latency", "memory", "energy",
    "images/s", "training memory",
)  # fmt: skip
"""What there can be for a member; a column that nobody has is left out, and `notes` say so."""


def ranked(comparison: Comparison) -> list[Member]:
    """Order members by mIoU, the highest first; those without scores last."""
    return sorted(
        comparison["members"],
        key=lambda member: -1.0 if member["mean_iou"] is None else member["mean_iou"],
        reverse=True,
    )


def verdict(comparison: Comparison, one: str, other: str) -> tuple[str, float, list[float]]:
    """Say whether `one` is better or worse than `other`, by how much, and between which ends."""
    for pair in comparison["pairs"]:
        if (pair["one"], pair["other"]) == (one, other):
            return pair["verdict"], pair["difference"], pair["interval"]
        if (pair["one"], pair["other"]) == (other, one):
            turned = {"better": "worse", "worse": "better", TIED: TIED}[pair["verdict"]]
            return turned, -pair["difference"], [-pair["interval"][1], -pair["interval"][0]]
    raise ValueError(f"no pair of `{one}` and `{other}` was compared")


def leaders(comparison: Comparison) -> list[str]:
    """Name the member of the highest mIoU, and after it those that are not distinguishable from it."""
    names = [member["name"] for member in ranked(comparison) if member["mean_iou"] is not None]
    return [names[0], *(name for name in names[1:] if verdict(comparison, names[0], name)[0] == TIED)]


def heading(comparison: Comparison) -> str:
    """Say in a few words which member is best."""
    first, *tied = leaders(comparison)
    if len([member for member in comparison["members"] if member["mean_iou"] is not None]) == 1:
        return f"{first} has nothing to be compared with"
    return f"No single best: {first} leads" if tied else f"{first} is best"


def answer(comparison: Comparison) -> str:
    """Say in one sentence which member is best, and what cannot be told apart."""
    names = [member["name"] for member in ranked(comparison) if member["mean_iou"] is not None]
    first, *tied = leaders(comparison)
    beaten = [name for name in names if name not in (first, *tied)]
    top = ranked(comparison)[0]
    seeds = len(top["seeds"])
    begin = (
        f"{first} has the highest mIoU on the {count(comparison['data']['images'])} images of "
        f"{comparison['data']['kind']}, {comparison['split']}: {percent(top['mean_iou'])} "
        f"({f'mean of {seeds} seeds' if seeds > 1 else 'one seed'})"
    )
    if len(names) == 1:
        return f"{begin}; it is the only member with scores."
    if tied:
        rest = f"; it is better than {_beaten(beaten)}" if beaten else ""
        return f"{begin}, but it is not distinguishable from {listed(tied)}{rest}."
    _, margin, ends = verdict(comparison, first, names[1])
    next_one = "" if len(beaten) == 1 else " than the next"
    return f"{begin}, better than {_beaten(beaten)}, by {points(margin)}{next_one} ({_ends(ends)})."


def notes(comparison: Comparison) -> list[str]:
    """Say what the verdicts rest on, and what they leave open."""
    bootstrap, pairs = comparison["bootstrap"], len(comparison["pairs"])
    seeds = sorted({len(member["seeds"]) for member in comparison["members"] if member["mean_iou"] is not None})
    level = f"{100 * bootstrap['level']:g} %"
    over = "images" if seeds == [1] else "images and of seeds, the same for both members of a pair"
    found = [
        f"Scored on the {comparison['split']} part, {comparison['protocol']}, model {comparison['model']}: "
        f"{comparison['split_reason']}.",
        f"Intervals hold {level} of {count(bootstrap['resamples'])} resamples of {over}; verdicts stand after Holm's "
        f"correction for {pairs} pair{'s' if pairs != 1 else ''}.",
    ]
    if seeds == [1]:
        found.append("One seed each: what another seed would change is not in the intervals.")
    elif 1 in seeds:
        found.append("Members with one seed: what another seed would change is not in their intervals.")
    elif seeds[0] < 5:
        found.append(
            f"{seeds[0]} seeds say little about other seeds: what they add to the intervals is widened for it."
        )
    found.append("Images count as independent: of frames that resemble each other, the intervals are too narrow.")
    lacking = [column for column in COLUMNS if column not in columns(comparison)]
    if lacking:
        found.append(f"Not reported by this device or these runs: {', '.join(lacking)}.")
    if pairs and pairs * 2 / (bootstrap["resamples"] + 1) >= 1 - bootstrap["level"]:
        found.append(
            "There are too few resamples for so many pairs: nothing could be distinguished (`bootstrap.resamples`)."
        )
    return found


def failures(comparison: Comparison) -> list[str]:
    """Say which members failed, and why."""
    return [f"{member['name']}: {member['error']}" for member in comparison["members"] if member["error"]]


def conditions(comparison: Comparison) -> dict[str, str]:
    """Say how costs were measured, by what was measured."""
    cost = comparison["cost"]
    size = " x ".join(map(str, cost["input"]))
    devices = sorted({run["device"] for member in comparison["members"] for run in member["runs"] if run.get("device")})
    return {
        "latency": f"{cost['device']}, {cost['dtype']}, batch {cost['batch_size']}, {size} pixels in, classes at "
        f"{' x '.join(map(str, cost['output']))} out; median and quartiles of {cost['rounds']} rounds in which all "
        f"members take turns, after {cost['warm_up']} to warm up",
        "MACs": f"of one image as evaluated, {comparison['protocol']}; {cost['macs_method']}",
        "memory": f"of a prediction, batch {cost['batch_size']}: {cost['memory_method']}; of training: the peak of the "
        "process or GPU in log.jsonl",
        "images/s": f"in training, median of log.jsonl; runs were made on {', '.join(devices) or 'unknown devices'}",
        "energy": cost["energy_method"] or f"{NOT_REPORTED} by this device",
        "parameters": "of the training model, auxiliary heads included",
    }


def columns(comparison: Comparison) -> list[str]:
    """Choose the columns that some member has something for."""
    rows = [cells(member) for member in comparison["members"]]
    return [name for name in COLUMNS if any(row[name] for row in rows)]


def cells(member: Member) -> dict[str, str]:
    """Write what a member's row shows, by column."""
    facts: Mapping[str, Any] = next((run for run in member["runs"] if run.get("parameters")), {})
    speed, peak = mean_over_runs(member, "images_per_s"), mean_over_runs(member, "train_memory_mb")
    scored = member["mean_iou"] is not None
    return {
        "member": member["name"],
        "mIoU": percent(member["mean_iou"]) if scored else "failed",
        "interval": span(member["interval"]) if scored else "",
        "seeds": f"{len(member['seeds']) if scored else 0}/{len(member['runs'])}",
        "accuracy": percent(member["overall_accuracy"]) if scored else "",
        "parameters": short_count(facts["parameters"]) if facts else "",
        "trained": short_count(facts["trainable"]) if facts else "",
        "MACs": macs_words(member),
        "latency": latency_words(member),
        "memory": f"{member['memory_mb']:.0f} MiB" if member.get("memory_mb") else "",
        "energy": f"{member['joules']:.3g} J" if member.get("joules") is not None else "",
        "images/s": f"{speed:.1f}" if speed else "",
        "training memory": f"{peak:.0f} MiB" if peak else "",
    }


def macs_words(member: Member) -> str:
    """Write multiply-accumulates, with a mark where operators were not counted."""
    if member.get("macs") is None:
        return ""
    return short_count(member["macs"]) + (" or more" if member["uncounted"] else "")


def latency_words(member: Member) -> str:
    """Write the median and the quartiles in milliseconds."""
    if member.get("latency") is None:
        return ""
    times = member["latency"]
    return f"{times['median_ms']:.3g} ms ({times['lower_ms']:.3g} to {times['upper_ms']:.3g})"


def comparison_text(comparison: Comparison) -> str:
    """Write the answer, the table of members, what failed, and what it all rests on."""
    names = columns(comparison)
    rows = [tuple(cells(member)[name] for name in names) for member in ranked(comparison)]
    table = plain_table(names, rows)
    failed = [f"failed: {line}" for line in failures(comparison)]
    measured = [f"{name}: {words}" for name, words in conditions(comparison).items()]
    return "\n".join([answer(comparison), "", table, "", *failed, *notes(comparison), *measured])


def mean_over_runs(member: Member, key: str) -> float | None:
    """Average a fact over the runs that recorded it."""
    values = [run[key] for run in member["runs"] if run.get(key) is not None]
    return sum(values) / len(values) if values else None


def _beaten(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= MAX_NAMED else f"the {len(names)} others"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ends(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
