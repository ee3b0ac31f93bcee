"""How numbers are written for people: the same in tables, titles and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

OK = "ok"
"""The state of a class that is in the labels and was predicted at least once."""


def percent(share: float | None, *, missing: str = "undefined") -> str:
    """Write a share of 0..1 as percent with two decimals; None and NaN become the word `missing`."""
    return missing if share is None or share != share else f"{100 * share:.2f} %"


def count(number: int) -> str:
    """Write an integer with commas between thousands."""
    return f"{number:,}"


def short_count(number: int) -> str:
    """Write an integer in three digits and a unit: 950, 27.3 k, 3.71 M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + f" {unit}"
    return str(number)


def score_word(row: Mapping[str, Any], key: str) -> str:
    """Write `iou` or `accuracy` of one class of `metrics.json`: percent, or the word that says why there is none."""
    return percent(row[key], missing="undefined" if row["state"] == OK else row["state"])


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
