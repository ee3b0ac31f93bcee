"""The page of a comparison, and its tables as files; made from the folder of the comparison alone."""

import base64
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hfseg.labels import LabelSpace
from hfseg.viz import study_text
from hfseg.viz.facts import Fact, Score
from hfseg.viz.html import Plot, plot, render_page
from hfseg.viz.numbers import count, percent, points, short_count, three_digits
from hfseg.viz.paint import class_map
from hfseg.viz.study_cells import BENEATH, Comparison, Member, cells, columns, has_own_frames, mean_over_runs, sort_keys
from hfseg.viz.study_csv import classes_csv, members_csv, pairs_csv
from hfseg.viz.study_figures import accuracy_against
from hfseg.viz.study_text import is_scored, ranked, verdict
from hfseg.viz.style import write_png

PICTURE_BYTES = 3_500_000
"""What all pictures of a page may take together, so that the page stays under 5 MB."""
WIDTHS_PX = (640, 480, 360, 240, 160)
MARKS = {"better": "▲", "worse": "▼", study_text.TIED: "≈"}


@dataclass(frozen=True)
class Panel:
    """A picture in the page, and what it shows."""

    caption: str
    uri: str
    width: int
    height: int


def write_comparison(folder: Path) -> Path:
    """Write page, CSV tables and plots of a comparison from its `compare.json`, and give the page's path."""
    comparison = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    tables = {"compare": members_csv}
    if is_scored(comparison):
        tables |= {"pairs": pairs_csv, "classes": classes_csv}
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table(comparison), encoding="utf-8")
    figures = _figures(comparison)
    for name, figure in figures.items():
        (folder / "plots").mkdir(exist_ok=True)
        write_png(figure, folder / "plots" / f"{name}.png")
    page = folder / "compare.html"
    unfinished = page.with_suffix(".tmp")
    plots = [plot(name, figure) for name, figure in figures.items()]
    unfinished.write_text(render(comparison, plots, folder), encoding="utf-8")
    unfinished.replace(page)
    return page


def render(comparison: Comparison, plots: Sequence[Plot], folder: Path) -> str:
    """Write the page as HTML."""
    members, shown = ranked(comparison), columns(comparison)
    scored = [member for member in members if member["mean_iou"] is not None]
    return render_page(
        "compare.html.j2",
        styles=["compare.css"],
        heading=study_text.heading(comparison),
        answer=study_text.answer(comparison),
        notes=study_text.notes(comparison),
        failures=study_text.failures(comparison),
        tiles=_tiles(scored or members),
        plots=plots,
        rows=[_row(member, shown) for member in members],
        columns=_grouped(shown),
        matrix=_matrix(comparison, [member["name"] for member in scored]),
        names=[member["name"] for member in scored],
        classes=[_class_row(row, k, scored) for k, row in enumerate(comparison["classes"])],
        pictures=_pictures(comparison, folder, [member["name"] for member in scored]),
        legend=[(row["name"], _hex(row["color"])) for row in comparison["classes"]],
        settings=[(member["name"], _settings_words(member["settings"])) for member in members],
        conditions=[Fact(name, words) for name, words in study_text.conditions(comparison).items()],
        command=f"hfseg compare --study {shlex.quote(str(folder / 'study.yaml'))} --output NEW",
    )


def _figures(comparison: Comparison) -> dict[str, Any]:
    """Draw mIoU against what was measured: frame by frame where members are made for videos, else image by image."""
    scored = [member for member in ranked(comparison) if member["mean_iou"] is not None]
    if not scored:
        return {}
    cost, leaders = comparison["cost"], study_text.leaders(comparison)
    axes: dict[str, tuple[str, Callable[[Member], float], str]] = {
        "latency": ("latency", lambda m: m["latency"]["median_ms"], f"ms an image, {_where(cost, 'input')}"),
        "macs": ("macs", lambda m: m["macs"] / 1e9, f"10⁹ MACs an image of {_size(cost, 'input')}"),
    }
    if any(member.get("memory_frames") for member in scored):
        axes = {
            "frames": (
                "frame_latency",
                lambda m: m["frame_latency"]["median_ms"],
                f"ms a frame of a video, {_where(cost, 'output')}",
            ),
            "frame-macs": ("frame_macs", lambda m: m["frame_macs"] / 1e9, "10⁹ MACs a frame of a video"),
        }
    return {
        name: accuracy_against(kept, [read(member) for member in kept], leaders=leaders, what=what)
        for name, (key, read, what) in axes.items()
        if (kept := [member for member in scored if member.get(key)])
    }


def _where(cost: Mapping[str, Any], side: str) -> str:
    return f"{cost['device']}, {_size(cost, side)}"


def _size(cost: Mapping[str, Any], side: str) -> str:
    return f"{' x '.join(map(str, cost[side]))} px"


def _tiles(members: Sequence[Member]) -> list[Score]:
    """Name the extremes: highest mIoU where there are scores, quickest, fewest parameters."""
    top = members[0]
    tiles = [] if top["mean_iou"] is None else [Score("Highest mIoU", percent(top["mean_iou"]), top["name"])]
    key = "frame_latency" if any(member.get("memory_frames") for member in members) else "latency"
    timed = {member["name"]: member[key] for member in members if member.get(key)}
    if timed:
        order = sorted(timed, key=lambda name: timed[name]["median_ms"])
        first = timed[order[0]]
        alike = [name for name in order if timed[name]["lower_ms"] <= first["upper_ms"]]
        title = "Quickest" if key == "latency" else "Quickest, a frame"
        tiles.append(Score(title, f"{three_digits(first['median_ms'])} ms", _alike(alike)))
    by_frame = members if any(map(has_own_frames, members)) else []
    for title, sizes in {
        "Fewest MACs, a frame": {m["name"]: m["frame_macs"] for m in by_frame if m.get("frame_macs")},
        "Fewest parameters": {m["name"]: size for m in members if (size := mean_over_runs(m, "parameters"))},
    }.items():
        if sizes:
            smallest = min(sizes.values())
            names = [name for name, size in sizes.items() if size == smallest]
            tiles.append(Score(title, short_count(round(smallest)), _alike(names)))
    return tiles


def _alike(names: Sequence[str]) -> str:
    """Name the members that share an extreme, or whose quartiles overlap there."""
    return names[0] if len(names) == 1 else f"{study_text.listed(names)} alike"


def _grouped(shown: Sequence[str]) -> list[tuple[str, str]]:
    """Give the columns of the page, each with the one that is its second line, if any."""
    beneath = {BENEATH[name]: name for name in shown if name in BENEATH}
    return [(name, beneath.get(name, "")) for name in shown if name not in BENEATH]


def _row(member: Member, shown: Sequence[str]) -> dict[str, Any]:
    """Give the cells of a member, two lines each, and the numbers by which they are sorted."""
    keys, texts = sort_keys(member), cells(member)
    found = [(keys[name], texts[name], texts.get(beneath, "")) for name, beneath in _grouped(shown)]
    return {"failed": bool(member["error"]) and member["mean_iou"] is None, "cells": found}


def _matrix(comparison: Comparison, names: Sequence[str]) -> list[list[dict[str, str] | None]]:
    """Compare each row with each column; None on the diagonal."""
    return [[None if one == other else _cell(comparison, one, other) for other in names] for one in names]


def _cell(comparison: Comparison, one: str, other: str) -> dict[str, str]:
    word, difference, (low, high) = verdict(comparison, one, other)
    link = "from" if word == study_text.TIED else "than"
    return {
        "word": word,
        "kind": word.split()[0],
        "text": f"{MARKS[word]} {100 * difference:+.2f}",
        "title": f"{one} {word} {link} {other}: {points(difference)} ({points(low)} to {points(high)})",
    }


def _class_row(row: Mapping[str, Any], k: int, scored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = row["winner"] if row.get("difference") != 0 else None
    ious = [(member["name"] == best, member["per_category_iou"][k]) for member in scored]
    clear = row["winner"] is not None and row["is_clear"] and len(scored) > 1
    return {
        "name": row["name"],
        "hex": _hex(row["color"]),
        "pixels": row["label_pixels"],
        "pixels_text": count(row["label_pixels"]),
        "winner": row["winner"] or "",
        "is_clear": clear,
        "ious": [(-1 if iou is None else iou, percent(iou, missing="absent"), is_best) for is_best, iou in ious],
    }


def _pictures(comparison: Comparison, folder: Path, names: Sequence[str]) -> list[tuple[str, list[Panel]]]:
    """Set image, labels and every prediction of each picture side by side, as wide as the room for all allows."""
    if not comparison["pictures"]:
        return []
    rows = comparison["classes"]
    space = LabelSpace.from_names([row["name"] for row in rows], palette=[row["color"] for row in rows])
    files = {"image": "image.jpg", "labels": "labels.png"} | {name: f"member-{name}.png" for name in names}
    found = {}
    for width in WIDTHS_PX:
        found = {
            stem: [
                _panel(caption, folder / "pictures" / stem / file, space, width)
                for caption, file in files.items()
                if (folder / "pictures" / stem / file).is_file()
            ]
            for stem in comparison["pictures"]
        }
        if sum(len(panel.uri) for panels in found.values() for panel in panels) <= PICTURE_BYTES:
            break
    return list(found.items())


def _panel(caption: str, path: Path, space: LabelSpace, width: int) -> Panel:
    """Embed a photograph as JPEG, or an index mask in the classes' colours as PNG, at most `width` pixels wide."""
    with Image.open(path) as file:
        is_mask = file.mode in ("P", "L", "I;16", "I")
        height = max(1, round(file.height * min(1.0, width / file.width)))
        small = file.resize(
            (min(width, file.width), height), Image.Resampling.NEAREST if is_mask else Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    if is_mask:
        Image.fromarray(class_map(np.asarray(small).astype(np.int64), space)).save(buffer, "PNG", optimize=True)
    else:
        small.convert("RGB").save(buffer, "JPEG", quality=85)
    kind = "png" if is_mask else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Panel(caption, uri, *small.size)


def _settings_words(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, json.dumps(value)) for key, value in settings.items() if value is not None]


def _hex(color: Sequence[int]) -> str:
    return "#" + bytes(color).hex()
