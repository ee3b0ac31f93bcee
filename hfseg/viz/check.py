"""The result of `hfseg check` as text."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from hfseg.viz.numbers import count
from hfseg.viz.tables import plain_table

PROBLEMS_SHOWN, TWINS_SHOWN, SIZES_SHOWN = 8, 5, 3
GIB = 1024**3


def check_text(result: Mapping[str, Any]) -> str:
    """Write the result: parts, classes, duplicates, rates, costs, then what is wrong and what to think about."""
    blocks = [
        parts_text(result["parts"]),
        classes_text(result["parts"]),
        overlaps_text(result["overlaps"]),
        groups_text(result["groups"]),
        cost_text(result["dry_run"], result["estimate"]) if result["estimate"] else "",
        *problem_blocks(result["problems"]),
        "\n".join(_told("warning", warning) for warning in result["warnings"]),
        _verdict(result),
    ]
    return "\n\n".join(block for block in blocks if block)


def parts_text(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what each part is: images, sizes, kinds of masks."""
    lines = []
    for part, found in parts.items():
        if "reason" in found:
            lines.append(f"{part}: {found['reason']}")
            continue
        sizes = [f"{size['width']} x {size['height']} ({size['images']})" for size in found["sizes"]]
        more = [f"{len(sizes) - SIZES_SHOWN} more sizes"] if len(sizes) > SIZES_SHOWN else []
        modes = ", ".join(f"{mode} ({masks})" for mode, masks in found["mask_modes"].items())
        lines.append(
            f"{part}: {count(found['images'])} images, {found['unusable']} of them not usable; "
            f"{', '.join([*sizes[:SIZES_SHOWN], *more])}; masks of mode {modes or 'unknown'}; "
            f"{100 * found['ignored_share']:.2f} % of the pixels ignored"
        )
    return "\n".join(lines)


def classes_text(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the classes of all parts as one table; least, median and most are pixels in images that hold the class."""
    counted = {part: found["classes"] for part, found in parts.items() if found.get("classes")}
    if not counted:
        return ""
    columns = ["class", *(name for part in counted for name in (part, "share", "images"))]
    if "train" in counted:
        columns += ["least", "median", "most"]
    rows, nowhere = [], []
    for of_class in zip(*counted.values(), strict=True):
        by_part = dict(zip(counted, of_class, strict=True))
        if any(row["pixels"] for row in of_class):
            rows.append((of_class[0]["name"], *_cells(by_part)))
        else:
            nowhere.append(of_class[0]["name"])
    note = "pixels of each class; least, median and most: in one training image that holds the class"
    absent = [f"no pixel anywhere: {', '.join(nowhere)}"] if nowhere else []
    return "\n".join([note, plain_table(columns, rows), *absent])


def _cells(by_part: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for row in by_part.values():
        yield from (count(row["pixels"]), f"{100 * row['share']:.2f} %", count(row["images"]))
    if "train" in by_part:
        yield from (count(round(by_part["train"][key])) for key in ("least", "median", "most"))


def overlaps_text(overlaps: Sequence[Mapping[str, Any]]) -> str:
    """Write how many pictures of a part are like one of another, and the pairs that are most alike."""
    lines = []
    for found in overlaps:
        is_within = found["part"] == found["among"]
        where = "an earlier one" if is_within else f"one in {found['among']}"
        same = f", {found['same_files']} as the same file" if found["same_files"] else ""
        lines.append(f"{found['part']}: {len(found['twins'])} of {found['images']} images nearly repeat {where}{same}")
        if not is_within or found["same_files"]:
            lines += [f"  {_pair(twin)}" for twin in found["twins"][:TWINS_SHOWN]]
        if is_within and found["plain"]:
            lines.append(f"  {found['plain']} images are too plain to be compared by sight: only their bytes were")
    return "\n".join(lines)


def _pair(twin: Mapping[str, Any]) -> str:
    """Name two pictures without the folders that they share."""
    paths = Path(twin["image"]), Path(twin["twin"])
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(*(path.parent.parts for path in paths), strict=False))
    cut = sum(1 for _ in shared)
    one, other = (Path(*path.parts[cut:]).as_posix() for path in paths)
    apart = "the same file" if twin["is_same_file"] else f"{100 * twin['difference']:.1f} % apart"
    return f"{one} ~ {other}: {apart}"


def groups_text(groups: Sequence[Mapping[str, Any]]) -> str:
    """Write the groups of the optimizer, from shallow to deep, each with the names of its first and last tensor."""
    if not groups:
        return ""
    columns = ("depth", "parameters", "learning rate", "factor", "weight decay", "module")
    rows = [
        (
            str(group["depth"]),
            count(group["parameters"]),
            f"{group['lr']:.3g}",
            f"{group['lr_scale']:.4g}",
            f"{group['weight_decay']:g}",
            " ... ".join(dict.fromkeys(group[end].removeprefix("hf.") for end in ("first", "last"))),
        )
        for group in groups
    ]
    total = count(sum(group["parameters"] for group in groups))
    return f"groups of the optimizer: {total} parameters, each in one of them\n{plain_table(columns, rows)}"


def cost_text(run: Mapping[str, Any], cost: Mapping[str, Any]) -> str:
    """Write what a step took, and what the run would take, with what was assumed."""
    memory = run["memory"]
    losses = ", ".join(f"{name} {value:.3f}" for name, value in run["losses"].items())
    return "\n".join(
        [
            f"one step on {run['device']}: {run['step_s']:.3f} s for {run['images']} images, median of "
            f"{run['timed_steps']} after a warm-up ({losses})",
            f"reading a batch: {run['batch_s']:.3f} s, {run['loader_images_per_s']:.1f} images/s with "
            f"{run['workers']} workers",
            f"validating {run['validation_images'] or 'the first'} images: {run['validation_s']:.3f} s",
            f"memory: {memory['peak'] / GIB:.2f} GiB at most, {memory['before'] / GIB:.2f} of them before the first "
            f"step, of {memory['limit'] / GIB:.2f} ({memory['how']})",
            f"the whole run: about {duration(cost['total_s'])} for {count(cost['num_steps'])} steps and "
            f"{cost['num_validations']} validations: {duration(cost['training_s'])} of training "
            f"({duration(cost['waiting_s'])} of that waiting for data), {duration(cost['validation_s'])} of validation",
            *(f"  assumed: {text}" for text in cost["assumptions"]),
        ]
    )


def problem_blocks(problems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write the problems of each kind together, the first of them in full."""
    ordered = sorted(problems, key=lambda problem: (problem["part"], problem["kind"]))
    for (part, kind), group in groupby(ordered, key=lambda problem: (problem["part"], problem["kind"])):
        found = list(group)
        lines = [f"error: {part}, {kind}: {len(found)}", *(f"  {each['message']}" for each in found[:PROBLEMS_SHOWN])]
        if len(found) > PROBLEMS_SHOWN:
            lines.append(f"  and {len(found) - PROBLEMS_SHOWN} more")
        hints = dict.fromkeys(each["hint"] for each in found if each["hint"])
        yield "\n".join([*lines, *(f"  hint: {hint}" for hint in hints)])


def duration(seconds: float) -> str:
    """Write a time in the two largest units that matter: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    if hours < 36:
        return f"{int(hours)} h {int(minutes) % 60:02d} min"
    return f"{int(hours / 24)} d {int(hours) % 24} h"


def _told(word: str, said: Mapping[str, Any]) -> str:
    return f"{word}: {said['message']}" + (f"\n  hint: {said['hint']}" if said["hint"] else "")


def _verdict(result: Mapping[str, Any]) -> str:
    problems, warnings = len(result["problems"]), len(result["warnings"])
    where = f"; samples are in `{result['samples']}`" if result["samples"] else ""
    return f"{problems} problems, {warnings} warnings{where}"
