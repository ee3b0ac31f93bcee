"""Every loss by name, and weighted sums of them on both heads."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Integer
from torch import Tensor

from hfseg.losses.boundary import boundary
from hfseg.losses.cross_entropy import cross_entropy
from hfseg.losses.dice import dice
from hfseg.losses.focal import focal
from hfseg.losses.lovasz import lovasz
from hfseg.losses.ohem import ohem
from hfseg.losses.tversky import tversky
from hfseg.values import SegOutput


@dataclass(frozen=True)
class Term:
    """A loss, and its keywords by the settings of `LossConfig` that they are taken from."""

    function: Callable[..., Tensor]
    settings: Mapping[str, str]


WEIGHTED = {"class_weights": "class_weights"}
TERMS: dict[str, Term] = {
    "ce": Term(cross_entropy, {**WEIGHTED, "label_smoothing": "label_smoothing"}),
    "ohem": Term(ohem, {**WEIGHTED, "ohem_threshold": "threshold", "ohem_min_kept": "min_kept"}),
    "focal": Term(focal, {**WEIGHTED, "focal_gamma": "gamma"}),
    "boundary": Term(boundary, {**WEIGHTED, "boundary_width": "width", "boundary_gain": "gain"}),
    "dice": Term(dice, {}),
    "tversky": Term(tversky, {"tversky_false_positive": "false_positive", "tversky_false_negative": "false_negative"}),
    "lovasz": Term(lovasz, {}),
}
"""Every loss by the name that `loss.terms` and the log use."""

_TERM = re.compile(r"(?:(?P<weight>[0-9.]+(?:[eE]-?[0-9]+)?)\s*\*\s*)?(?P<name>[a-z_]+)")


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms; gives each term by name, `aux_` before those of the auxiliary head, and `total`."""

    weights: Mapping[str, float]
    auxiliary_weight: float
    ignore_index: int
    settings: Mapping[str, Any]
    """Values by the names of the settings, of which each term takes its own."""

    def __call__(self, output: SegOutput, labels: Integer[Tensor, "b h w"]) -> dict[str, Float[Tensor, ""]]:
        """Compare logits with labels at the labels' size."""
        heads = [("", output.logits, 1.0)]
        if output.aux_logits is not None:
            heads.append(("aux_", output.aux_logits, self.auxiliary_weight))
        values: dict[str, Tensor] = {}
        total = output.logits.new_zeros((), dtype=output.logits.dtype).float()
        for prefix, logits, head_weight in heads:
            for name, weight in self.weights.items():
                values[f"{prefix}{name}"] = self._term(name, logits, labels)
                total = total + head_weight * weight * values[f"{prefix}{name}"]
        return {**values, "total": total}

    def _term(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        term = TERMS[name]
        keywords = {keyword: self.settings[setting] for setting, keyword in term.settings.items()}
        return term.function(logits, labels, ignore_index=self.ignore_index, **keywords)


def parse_terms(text: str) -> dict[str, float]:
    """Read `ce+0.5*dice` as weights by name.

    Raises:
        ValueError: a term is not a known loss, stands twice, or its weight is not a number; or all weights are 0.
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
        if not math.isfinite(weights[name]):
            raise ValueError(f"`{match['weight']}` is too large for a weight: got `{text}`")
    if not any(weights.values()):
        raise ValueError(f"nothing is minimized, because all weights are 0: got `{text}`")
    return weights
