"""Counts and scores; the `evaluate.Metric` is in `hfseg.metrics.mean_iou`, because `evaluate` is slow to import."""

from hfseg.metrics.confusion import confusion
from hfseg.metrics.scores import Scores, constant_baseline

__all__ = ["Scores", "confusion", "constant_baseline"]
