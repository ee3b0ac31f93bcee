"""Losses: sums of named terms on logits and labels, main and auxiliary head alike.

A new loss is one file with a function `(logits, labels, *, ignore_index) -> scalar`, and one line in `TERMS`.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Integer
from pydantic import NonNegativeFloat, field_validator
from torch import Tensor

from hfseg.config import Config
from hfseg.losses.cross_entropy import cross_entropy
from hfseg.losses.dice import dice
from hfseg.values import SegOutput

TERMS: dict[str, Callable[..., Tensor]] = {
    "ce": cross_entropy,
    "dice": dice,
}
"""Every loss by the name that `loss.terms` and the log use."""

_TERM = re.compile(r"(?:(?P<weight>[0-9.]+(?:e-?[0-9]+)?)\s*\*\s*)?(?P<name>[a-z_]+)")


class LossConfig(Config):
    """What is minimized."""

    terms: str = "ce"
    """A loss, or a weighted sum such as `ce+0.5*dice`; terms are logged by name, unweighted."""
    auxiliary_weight: NonNegativeFloat = 0.4
    """Weight of the same sum on the auxiliary head, where the model has one."""

    @field_validator("terms")
    @classmethod
    def _known(cls, value: str) -> str:
        parse_terms(value)
        return value

    def build(self, ignore_index: int = 255) -> "Loss":
        """Make the loss for labels with this ignored value."""
        return Loss(parse_terms(self.terms), self.auxiliary_weight, ignore_index)


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms; gives each term by name, `aux_` before those of the auxiliary head, and `total`."""

    weights: dict[str, float]
    auxiliary_weight: float
    ignore_index: int

    def __call__(self, output: SegOutput, labels: Integer[Tensor, "b h w"]) -> dict[str, Float[Tensor, ""]]:
        """Compare logits with labels at the labels' size."""
        heads = [("", output.logits, 1.0)]
        if output.aux_logits is not None:
            heads.append(("aux_", output.aux_logits, self.auxiliary_weight))
        values: dict[str, Tensor] = {}
        total = output.logits.new_zeros((), dtype=output.logits.dtype).float()
        for prefix, logits, head_weight in heads:
            for name, weight in self.weights.items():
                values[f"{prefix}{name}"] = TERMS[name](logits, labels, ignore_index=self.ignore_index)
                total = total + head_weight * weight * values[f"{prefix}{name}"]
        return {**values, "total": total}


def parse_terms(text: str) -> dict[str, float]:
    """Read `ce+0.5*dice` as weights by name.

    Raises:
        ValueError: a term is not a known loss, stands twice, or its weight is not a number.
    """
    weights: dict[str, float] = {}
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"`{part.strip()}` is not a loss: got `{text}`\n\nhint: write it as in ce+0.5*dice")
        name = match["name"]
        if name not in TERMS:
            close = difflib.get_close_matches(name, TERMS, n=1)
            meant = f"did you mean `{close[0]}`? " if close else ""
            raise ValueError(
                f"there is no loss `{name}`: got `{text}`\n\nhint: {meant}the losses are {', '.join(TERMS)}"
            )
        if name in weights:
            raise ValueError(f"loss `{name}` stands twice: got `{text}`")
        try:
            weights[name] = float(match["weight"] or 1)
        except ValueError:
            raise ValueError(f"`{match['weight']}` is not a weight: got `{text}`") from None
    return weights
