"""Losses: sums of named terms on logits and labels, main and auxiliary head alike.

A new loss is one file with a function `(logits, labels, *, ignore_index) -> scalar`, and one line in `TERMS`.
"""

from hfseg.losses.config import LossConfig
from hfseg.losses.teaching import DistillConfig, Teaching
from hfseg.losses.total import TERMS, Loss, Term, parse_terms

__all__ = ["TERMS", "DistillConfig", "Loss", "LossConfig", "Teaching", "Term", "parse_terms"]
