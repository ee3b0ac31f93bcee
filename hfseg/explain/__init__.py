"""Why a model sees what it sees: class activation, checks of it, and receptive fields; torch alone."""

from hfseg.explain.activation import METHODS, Method, Observation, observing
from hfseg.explain.faithfulness import Faithfulness, Fill, area, measure_faithfulness
from hfseg.explain.layers import Layer, find_layer
from hfseg.explain.receptive import ReceptiveField, receptive_field
from hfseg.explain.region import Box, Point, PredictedPixels, Region, WholeImage
from hfseg.explain.sanity import Similarity, randomization_check

__all__ = [
    "METHODS",
    "Box",
    "Faithfulness",
    "Fill",
    "Layer",
    "Method",
    "Observation",
    "Point",
    "PredictedPixels",
    "ReceptiveField",
    "Region",
    "Similarity",
    "WholeImage",
    "area",
    "find_layer",
    "measure_faithfulness",
    "observing",
    "randomization_check",
    "receptive_field",
]
