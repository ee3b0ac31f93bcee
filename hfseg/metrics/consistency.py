"""How steady predictions of a clip are from one frame to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer

from hfseg.metrics.scores import Scores, number


@dataclass
class Consistency:
    """Compares each predicted map of a clip with the one before it; every pixel counts, none is ignored.

    A frame that begins another scene, or has another size, is counted as a cut and compared with nothing. Motion is
    not taken out: a camera that moves fast lowers both numbers, so they compare models on one clip, not clips.
    """

    num_labels: int
    num_frames: int = 0
    cuts: list[int] = field(default_factory=list)
    """The frames that begin another scene, by the number they were given with."""
    kept: list[tuple[int, float]] = field(default_factory=list)
    """For each pair, the number of its second frame and the share of pixels, 0 to 1, that kept their class."""

    def __post_init__(self) -> None:
        self._counts = np.zeros((self.num_labels, self.num_labels), dtype=np.int64)
        self._previous: Integer[np.ndarray, "h w"] | None = None

    def update(self, pred: Integer[np.ndarray, "h w"], *, index: int, cut: bool = False) -> None:
        """Add the classes of the next frame.

        Raises:
            ValueError: a class lies outside [0, num_labels).
        """
        self.num_frames += 1
        previous, self._previous = self._previous, pred
        if previous is None:
            return
        if cut or previous.shape != pred.shape:
            self.cuts.append(index)
            return
        counts = _pairs(previous, pred, self.num_labels)
        self._counts += counts
        self.kept.append((index, float(np.trace(counts)) / pred.size))

    @property
    def matrix(self) -> Int64[np.ndarray, "k k"]:
        """Pixels of all pairs, by their class before (rows) and after (columns)."""
        return self._counts.copy()

    def to_dict(self, names: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Give everything as JSON has it; shares are None where no two frames were compared.

        `pixels_kept` is the share of all compared pixels that kept their class; `mean_iou` is that of all pairs
        together, over the classes that occur in any, the frame before in the place of labels.
        """
        scores = Scores.from_confusion(torch.from_numpy(self._counts))
        worst = min(self.kept, key=lambda pair: pair[1], default=None)
        rows = zip(names, palette, scores.per_category_iou, scores.predicted_pixels, strict=True)
        return {
            "frames": self.num_frames,
            "pairs": len(self.kept),
            "cuts": self.cuts,
            "pixels_kept": number(scores.overall_accuracy),
            "mean_iou": number(scores.mean_iou),
            "worst": None if worst is None else {"frame": worst[0], "pixels_kept": worst[1]},
            "classes": [
                {"name": name, "color": list(color), "iou": number(iou), "pixels": pixels}
                for name, color, iou, pixels in rows
            ],
        }


def _pairs(
    before: Integer[np.ndarray, "h w"], after: Integer[np.ndarray, "h w"], num_labels: int
) -> Int64[np.ndarray, "k k"]:
    """Count pixels by their class before and after."""
    low, high = int(after.min()), int(after.max())
    if low < 0 or high >= num_labels:
        raise ValueError(f"prediction has the class {low if low < 0 else high}: expected 0 to {num_labels - 1}")
    cells = before.astype(np.int64) * num_labels + after
    return np.bincount(cells.ravel(), minlength=num_labels**2).reshape(num_labels, num_labels)
