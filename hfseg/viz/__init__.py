"""Pictures, tables and the report page; reads files of a run folder and arrays handed to pure functions."""

from hfseg.viz.confusion import confusion_map, largest_confusions
from hfseg.viz.overlay import overlay, save_index_mask, side_by_side
from hfseg.viz.page import build_report
from hfseg.viz.robustness import corruption_summary, corruptions_csv, corruptions_text, render_corruptions
from hfseg.viz.style import write_png
from hfseg.viz.tables import (
    against_text,
    csv_text,
    parameter_summary,
    parameters_text,
    render_parameters,
    render_scores,
    scores_csv,
    scores_text,
    summary,
)
from hfseg.viz.worst import worst_heading, worst_picture

__all__ = [
    "against_text",
    "build_report",
    "confusion_map",
    "corruption_summary",
    "corruptions_csv",
    "corruptions_text",
    "csv_text",
    "largest_confusions",
    "overlay",
    "parameter_summary",
    "parameters_text",
    "render_corruptions",
    "render_parameters",
    "render_scores",
    "save_index_mask",
    "scores_csv",
    "scores_text",
    "side_by_side",
    "summary",
    "worst_heading",
    "worst_picture",
    "write_png",
]
