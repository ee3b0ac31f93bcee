"""Scores of all runs of a comparison put together: a row for each member, pair and class."""

from pathlib import Path
from typing import Any

from hfseg.errors import DataError
from hfseg.metrics import BootstrapConfig, ImageAreas
from hfseg.metrics.seeds import SeedComparison
from hfseg.models import parameter_table
from hfseg.recipes.compare.cost import Measured, training_facts
from hfseg.recipes.compare.members import scores_of
from hfseg.recipes.compare.study import PlannedRun, differing_settings
from hfseg.recipes.evidence import read_counts
from hfseg.viz.numbers import parameter_totals

RUN_SCORES = ("mean_iou", "overall_accuracy", "mean_accuracy", "boundary_iou")


def compared(
    planned: list[PlannedRun], scored: dict[PlannedRun, Path], failures: dict[str, str], bootstrap: BootstrapConfig
) -> dict[str, Any]:
    """Put scores, intervals and differences together.

    Raises:
        DataError: runs were scored on different images, labels or classes.
    """
    counts: dict[str, dict[int, ImageAreas]] = {}
    metrics = {run: scores_of(folder) for run, folder in scored.items()}
    for run, folder in scored.items():
        counts.setdefault(run.member, {})[run.seed] = read_counts(folder)[0]
    try:
        found = SeedComparison(counts, bootstrap)
    except ValueError as error:
        raise DataError(f"runs cannot be compared: {error}", hint="score all on the same data and classes") from None
    first = next(iter(metrics.values()))
    _check_classes(metrics)
    return {
        "data": first["dataset"],
        "protocol": first["protocol"]["text"],
        "bootstrap": bootstrap.model_dump(),
        "members": [_member(name, planned, metrics, found, failures) for name in _names(planned)],
        "pairs": [pair.to_dict() for pair in found.pairs()],
        "classes": [
            {"name": row["name"], "color": row["color"], "label_pixels": row["label_pixels"]}
            | ({"winner": None} if winner is None else vars(winner))
            for row, winner in zip(first["classes"], found.class_winners(), strict=True)
        ],
    }


def unscored(planned: list[PlannedRun], found: Measured) -> dict[str, Any]:
    """Put together what was measured of members that were never trained, in the order of the study."""
    settings = differing_settings(planned)
    members = []
    for name in _names(planned):
        run: dict[str, Any] = {"error": found.failures.get(name)}
        if name in found.opened:
            totals = parameter_totals(parameter_table(found.opened[name].segmenter))
            run |= dict(zip(("parameters", "trainable"), totals, strict=True))
        row = {"name": name, "settings": settings[name], "runs": [run], "error": run["error"], "mean_iou": None}
        members.append(row | found.costs.get(name, {}))
    return {"members": members, "pairs": [], "classes": [], "pictures": [], "cost": found.conditions}


def _check_classes(metrics: dict[PlannedRun, dict[str, Any]]) -> None:
    """See that all runs mean the same classes by their ids.

    Raises:
        DataError: they do not; names the first that differs.
    """
    (one, ours), *others = ((run, [row["name"] for row in found["classes"]]) for run, found in metrics.items())
    for other, theirs in others:
        if ours != theirs:
            place = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
            raise DataError(
                f"runs cannot be compared: class {place} is `{ours[place]}` of `{one.name}` and `{theirs[place]}` of "
                f"`{other.name}`",
                hint="score all on the same data and classes",
            )


def _names(planned: list[PlannedRun]) -> list[str]:
    return list(dict.fromkeys(run.member for run in planned))


def _member(
    name: str,
    planned: list[PlannedRun],
    metrics: dict[PlannedRun, dict[str, Any]],
    found: SeedComparison,
    failures: dict[str, str],
) -> dict[str, Any]:
    """Write the row of a member: means over its seeds, and a row for each run."""
    runs = [run for run in planned if run.member == name]
    rows = [
        {
            "seed": run.seed,
            "folder": str(run.folder),
            "error": failures.get(run.name),
            **{key: metrics[run].get(key) if run in metrics else None for key in RUN_SCORES},
            **(training_facts(run.folder) if run in metrics else {}),
        }
        for run in runs
    ]
    errors = [f"seed {row['seed']}: {row['error']}" for row in rows if row["error"]]
    scored = [run for run in runs if run in metrics]
    return {
        "name": name,
        "settings": differing_settings(planned)[name],
        "runs": rows,
        "error": "; ".join(errors) or None,
        **(found.standing(name).to_dict() if scored else {"mean_iou": None}),
    }
