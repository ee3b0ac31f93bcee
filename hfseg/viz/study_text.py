"""What a comparison says, in words and as a table for a terminal."""

from collections.abc import Sequence

from hfseg.viz.numbers import count, percent, points, short_count, three_digits
from hfseg.viz.study_cells import COLUMNS, Comparison, Member, cells, columns
from hfseg.viz.tables import plain_table

TIED = "not distinguishable"
MAX_NAMED = 4
"""Members that are named in a sentence; more are counted."""
NOT_REPORTED = "not reported"
SCORED = ("mIoU", "interval", "seeds", "accuracy", "images/s", "training memory")
"""Columns that only members which were trained and scored can have."""


def is_scored(comparison: Comparison) -> bool:
    """Tell whether there are scores, or costs alone."""
    return any(member["mean_iou"] is not None for member in comparison["members"])


def ranked(comparison: Comparison) -> list[Member]:
    """Order members by mIoU, the highest first; those without scores last, in the order of the study."""
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
    """Say in a few words which member is best; or what the page is about, where nothing was scored."""
    if not is_scored(comparison):
        return f"What {len(comparison['members'])} members cost"
    first, *tied = leaders(comparison)
    if len([member for member in comparison["members"] if member["mean_iou"] is not None]) == 1:
        return f"{first} has nothing to be compared with"
    return f"No single best: {first} leads" if tied else f"{first} is best"


def answer(comparison: Comparison) -> str:
    """Say in one sentence which member is best, and what cannot be told apart; or, without scores, what costs least."""
    if not is_scored(comparison):
        return _cheapest(comparison)
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
    if not is_scored(comparison):
        return ["Random weights: nothing was trained, and nothing is said of accuracy.", *_lacking(comparison)]
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
    found += _lacking(comparison)
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
    cost, shown = comparison["cost"], columns(comparison)
    size = " x ".join(map(str, cost["input"]))
    devices = sorted({run["device"] for member in comparison["members"] for run in member["runs"] if run.get("device")})
    remembering = [member["name"] for member in comparison["members"] if member.get("memory_frames")]
    image = "one image, or one clip for members with memory," if remembering else "one image"
    video = f"the next frame of a video, {cost.get('frame_protocol', 'whole image')}"
    once = "; members with memory see each frame once and keep what they need of it" if remembering else ""
    found = {
        "latency": f"of {image} as evaluated; {cost['device']}, {cost['dtype']}, batch {cost['batch_size']}, {size} "
        f"pixels in, classes at {' x '.join(map(str, cost['output']))} out; median and quartiles of "
        f"{cost['rounds']} round{'s' * (cost['rounds'] > 1)} in which all members take "
        f"turns, after {cost['warm_up']} to warm up",
        "frames/s": f"from the median time of {video}{once}; measured as latency is",
        "MACs": f"of {image} as evaluated, {comparison['protocol']}; {cost['macs_method']}",
        "frame MACs": f"of {video}",
        "memory": f"of a prediction as evaluated, batch {cost['batch_size']}: {cost['memory_method']}; of training: "
        "the peak of the process or GPU in log.jsonl",
        "images/s": f"in training, median of log.jsonl; runs were made on {', '.join(devices) or 'unknown devices'}",
        "energy": cost["energy_method"] or f"{NOT_REPORTED} by this device",
        "parameters": "of the training model, auxiliary heads included",
    }
    return {name: words for name, words in found.items() if name in shown or name == "energy"}


def comparison_text(comparison: Comparison) -> str:
    """Write the answer, the table of members, what failed, and what it all rests on."""
    names = columns(comparison)
    rows = [tuple(cells(member)[name] for name in names) for member in ranked(comparison)]
    table = plain_table(names, rows)
    failed = [f"failed: {line}" for line in failures(comparison)]
    measured = [f"{name}: {words}" for name, words in conditions(comparison).items()]
    return "\n".join([answer(comparison), "", table, "", *failed, *notes(comparison), *measured])


def _cheapest(comparison: Comparison) -> str:
    """Say which members multiply least and which are quickest, frame by frame."""
    found = [member for member in comparison["members"] if member.get("frames_per_s")]
    fewest, quickest = min(found, key=lambda m: m["frame_macs"]), max(found, key=lambda m: m["frames_per_s"])
    size, device = " x ".join(map(str, comparison["cost"]["output"])), comparison["cost"]["device"]
    return (
        f"For a frame of a video of {size} pixels, {fewest['name']} multiplies least "
        f"({short_count(fewest['frame_macs'])} MACs) and {quickest['name']} is quickest "
        f"({three_digits(quickest['frames_per_s'])} frames/s on {device}), of {len(found)} members."
    )


def _lacking(comparison: Comparison) -> list[str]:
    """Say which columns nobody has anything for."""
    possible = [name for name in COLUMNS if name != "frame MACs" and (is_scored(comparison) or name not in SCORED)]
    lacking = [name for name in possible if name not in columns(comparison)]
    return [f"Not reported by this device or these runs: {', '.join(lacking)}."] if lacking else []


def _beaten(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= MAX_NAMED else f"the {len(names)} others"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ends(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
