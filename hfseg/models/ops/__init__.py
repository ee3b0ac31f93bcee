"""Attention operators."""

from hfseg.models.ops.gather import attention_probabilities, average_values
from hfseg.models.ops.neighborhood import WAYS, Case, choose, neighborhood_attention

__all__ = ["WAYS", "Case", "attention_probabilities", "average_values", "choose", "neighborhood_attention"]
