"""Which validation was the best so far, and for how long none has been better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

BEST: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "best_miou": ("mean_iou", max),
    "best_loss": ("loss", min),
}
"""What a validation can be the best at: the score it is judged by, and which of two scores is better."""


@dataclass
class Best:
    """The best scores of a run."""

    scores: dict[str, float] = field(default_factory=dict)
    """By the name of the score."""
    stale: int = 0
    """Validations since the last one that was the best by mIoU."""

    def note(self, scores: Mapping[str, Any]) -> dict[str, bool]:
        """Take in a validation, and tell what it is the best at."""
        flags = {flag: self._is_best(score, better, scores[score]) for flag, (score, better) in BEST.items()}
        self.stale = 0 if flags["best_miou"] else self.stale + 1
        return flags

    def _is_best(self, score: str, better: Callable[[float, float], float], value: float | None) -> bool:
        """Note a score and tell whether no earlier one was as good; one that is not known never is."""
        before = self.scores.get(score)
        if value is None:
            return False
        if before is not None and (value == before or better(value, before) != value):
            return False
        self.scores[score] = value
        return True
