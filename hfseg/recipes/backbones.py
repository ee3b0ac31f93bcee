"""`hfseg backbones`: which encoders can be used here, found by trying them; no weights are read or fetched."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from hfseg.errors import ModelError
from hfseg.models.backbones.survey import REFUSED, SurveyRow, look_at, survey

WIDTH = 100
INDENT = "    "
HEAD = ("family", "status", "strides", "channels")


def run(name: str | None = None) -> list[SurveyRow]:
    """Try every family of encoders, or the one encoder of that name: an alias, `timm:NAME`, a Hub id or a folder.

    Raises:
        ModelError: there is no such encoder, or no decoder over four maps can use it; says why.
    """
    if name is None:
        return survey()
    row = look_at(name)
    if row.status == REFUSED:
        raise ModelError(row.note)
    return [replace(row, aliases=row.aliases or (name,))]


def to_text(rows: list[SurveyRow]) -> str:
    """Write a line of columns for each row, and below it its names, its default weights and what is to be known."""
    cells = [(row.family, row.status, _listed(row.strides), _listed(row.channels)) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, strict=True)]
    head, *lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (HEAD, *cells)
    )
    return "\n".join([head, *("\n".join([line, *_details(row)]) for line, row in zip(lines, rows, strict=True))])


def _details(row: SurveyRow) -> list[str]:
    unnamed = "" if row.status == REFUSED else "has no short name: give a Hub id or a folder"
    weights = f"weights: {row.checkpoint}" if row.checkpoint else ""
    several = " or ".join(map(str, row.output_strides)) if len(row.output_strides) > 1 else ""
    dilated = f"with --decoder tmanet: model.output_stride {several}" if several else ""
    details = [", ".join(row.aliases) or unnamed, weights, row.note, dilated]
    return [
        line
        for detail in details
        for line in textwrap.wrap(
            detail, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
        )
    ]


def _listed(values: Sequence[int | float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
