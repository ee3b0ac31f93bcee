"""Pictures, tables and the report page; reads files of a run folder and arrays handed to pure functions."""

from hfseg.viz.overlay import overlay, save_index_mask, side_by_side
from hfseg.viz.page import build_report
from hfseg.viz.tables import (
    parameter_summary,
    parameters_text,
    render_parameters,
    render_scores,
    scores_csv,
    scores_text,
    summary,
)

__all__ = [
    "build_report",
    "overlay",
    "parameter_summary",
    "parameters_text",
    "render_parameters",
    "render_scores",
    "save_index_mask",
    "scores_csv",
    "scores_text",
    "side_by_side",
    "summary",
]
