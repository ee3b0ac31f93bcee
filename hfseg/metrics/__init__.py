"""Counts and scores; the `evaluate.Metric` is in `hfseg.metrics.mean_iou`, because `evaluate` is slow to import."""

from hfseg.metrics.bootstrap import BootstrapConfig, Difference, ImageAreas, Intervals
from hfseg.metrics.boundary import DIAGONAL_SHARE
from hfseg.metrics.confusion import confusion
from hfseg.metrics.consistency import Consistency
from hfseg.metrics.counting import Counting
from hfseg.metrics.images import ImageScores
from hfseg.metrics.scores import Scores, constant_baseline
from hfseg.metrics.table import corruption_table, score_table

__all__ = [
    "DIAGONAL_SHARE",
    "BootstrapConfig",
    "Consistency",
    "Counting",
    "Difference",
    "ImageAreas",
    "ImageScores",
    "Intervals",
    "Scores",
    "confusion",
    "constant_baseline",
    "corruption_table",
    "score_table",
]
