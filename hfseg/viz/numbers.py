"""How numbers are written for people: the same in tables, titles and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

OK = "ok"
"""The state of a class that is in the labels and was predicted at least once."""
MAX_NAME = 26
"""Letters of a class name beside an axis."""


def percent(share: float | None, *, missing: str = "undefined") -> str:
    """Write a share of 0..1 as percent with two decimals; None and NaN become the word `missing`."""
    return missing if share is None or share != share else f"{100 * share:.2f} %"


def span(interval: Sequence[float]) -> str:
    """Write an interval of shares as `69.80 to 72.81 %`."""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def points(difference: float) -> str:
    """Write a difference of two shares in points of a percent, with its sign."""
    return f"{100 * difference:+.2f} points"


def count(number: int) -> str:
    """Write an integer with commas between thousands."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """Write an integer in three digits and a unit: 950, 27.3 k, 3.71 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return str(number)


def three_digits(number: float) -> str:
    """Write a number in three digits, from 1,000 on as a whole one with commas: 0.609, 12.0, 3,480."""
    return f"{number:#.3g}".rstrip(".") if number < 999.5 else f"{number:,.0f}"


def score_word(row: Mapping[str, Any], key: str) -> str:
    """Write a score of one class of `metrics.json`: percent, or the word that says why there is none."""
    return percent(row[key], missing="undefined" if row["state"] == OK else row["state"])


def interval_words(metrics: Mapping[str, Any], key: str = "mean_iou") -> str:
    """Write `95 % interval 69.80 to 72.81 %` of a score in `metrics.json`; nothing where none was found."""
    interval = metrics.get(f"{key}_interval")
    return f"{level_words(metrics)} {span(interval)}" if interval else ""


def level_words(metrics: Mapping[str, Any]) -> str:
    """Say how much an interval of `metrics.json` holds: `95 % interval`."""
    return f"{100 * metrics['bootstrap']['level']:g} % interval"


def protocol_words(metrics: Mapping[str, Any]) -> str:
    """Say by which protocol the scores of `metrics.json` were found, also where it was written by version 0.1."""
    protocol = metrics["protocol"]
    if "text" in protocol:
        return str(protocol["text"])
    size = f", shorter side {protocol['short_side']} px" if protocol.get("short_side") else ""
    return f"{protocol['mode']}{size}"


def freeze_state(total: int, trainable: int) -> str:
    """Say whether a module is `trainable`, `frozen`, `partly frozen`, or has `no parameters`."""
    if total == 0:
        return "no parameters"
    if trainable == 0:
        return "frozen"
    return "trainable" if trainable == total else "partly frozen"


def parameter_totals(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Add up `total` and `trainable` over the rows of `parameters.json`."""
    return sum(row["total"] for row in rows), sum(row["trainable"] for row in rows)


def short_name(name: str) -> str:
    """Cut a class name that is too long to stand beside an axis."""
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
