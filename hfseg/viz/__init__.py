"""Pictures, tables and the report page; reads files of a run folder and arrays handed to pure functions."""

from hfseg.viz.areas import areas_html
from hfseg.viz.confusion import confusion_map, largest_confusions
from hfseg.viz.faithfulness import check_figure, check_title
from hfseg.viz.gif import GifStrip
from hfseg.viz.heads import HeadRow, head_grid
from hfseg.viz.heat import heat_picture
from hfseg.viz.html import TEMPLATES
from hfseg.viz.live import LivePage
from hfseg.viz.overlay import overlay, save_index_mask, side_by_side
from hfseg.viz.page import build_report
from hfseg.viz.receptive import Field, receptive_figure
from hfseg.viz.robustness import corruption_summary, corruptions_csv, corruptions_text, render_corruptions
from hfseg.viz.study import write_comparison
from hfseg.viz.study_text import comparison_text
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
from hfseg.viz.video import ClipPainter, View
from hfseg.viz.worst import worst_heading, worst_picture

__all__ = [
    "TEMPLATES",
    "ClipPainter",
    "Field",
    "GifStrip",
    "HeadRow",
    "LivePage",
    "View",
    "against_text",
    "areas_html",
    "build_report",
    "check_figure",
    "check_title",
    "comparison_text",
    "confusion_map",
    "corruption_summary",
    "corruptions_csv",
    "corruptions_text",
    "csv_text",
    "head_grid",
    "heat_picture",
    "largest_confusions",
    "overlay",
    "parameter_summary",
    "parameters_text",
    "receptive_figure",
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
    "write_comparison",
    "write_png",
]
