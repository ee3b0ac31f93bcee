"""Attention operators."""

from hfseg.models.ops.gather import attention_probabilities, average_values
from hfseg.models.ops.neighborhood import WAYS, Case, choose, freely_chosen, neighborhood_attention

__all__ = [
    "WAYS",
    "Case",
    "attention_probabilities",
    "average_values",
    "choose",
    "freely_chosen",
    "neighborhood_attention",
]
