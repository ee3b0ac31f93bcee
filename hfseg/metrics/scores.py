"""Scores of a whole data set, from one confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hfseg.metrics.areas import accuracy_of, areas_of, iou_of

State = Literal["ok", "absent", "only predicted", "never predicted"]
_STATES: dict[tuple[bool, bool], State] = {
    (True, True): "ok",
    (True, False): "never predicted",
    (False, True): "only predicted",
    (False, False): "absent",
}
"""By whether a class is labelled, and whether it is predicted."""


@dataclass(frozen=True)
class Scores:
    """Intersection over union and accuracy, 0 to 1, over the data set and by class.

    Means leave out classes for which they are not defined: IoU where a class is neither labelled nor predicted,
    accuracy where it is not labelled. By class these are NaN.
    """

    mean_iou: float
    mean_accuracy: float
    overall_accuracy: float
    per_category_iou: tuple[float, ...]
    per_category_accuracy: tuple[float, ...]
    label_pixels: tuple[int, ...]
    predicted_pixels: tuple[int, ...]

    @classmethod
    def from_confusion(cls, matrix: Int[Tensor, "k k"]) -> "Scores":
        """Score counts of pixels by label (rows) and prediction (columns)."""
        areas = areas_of(matrix.cpu())
        hits, labelled, predicted = areas
        iou, accuracy = iou_of(areas), hits.double() / labelled  # 0 / 0 is NaN
        return cls(
            mean_iou=float(iou.nanmean()),
            mean_accuracy=float(accuracy.nanmean()),
            overall_accuracy=float(accuracy_of(areas)),
            per_category_iou=tuple(iou.tolist()),
            per_category_accuracy=tuple(accuracy.tolist()),
            label_pixels=tuple(labelled.tolist()),
            predicted_pixels=tuple(predicted.tolist()),
        )

    @property
    def states(self) -> tuple[State, ...]:
        """Say of each class whether its scores mean something.

        `absent`: neither labelled nor predicted, no IoU; `only predicted`: not labelled, IoU 0; `never predicted`:
        labelled, IoU 0.
        """
        return tuple(
            _STATES[labelled > 0, predicted > 0]
            for labelled, predicted in zip(self.label_pixels, self.predicted_pixels, strict=True)
        )

    def to_dict(self, names: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Give everything as JSON has it: NaN becomes None, and each class is a row with its name and colour."""
        rows = [
            {
                "id": index,
                "name": names[index],
                "color": list(palette[index]),
                "label_pixels": self.label_pixels[index],
                "predicted_pixels": self.predicted_pixels[index],
                "iou": number(self.per_category_iou[index]),
                "accuracy": number(self.per_category_accuracy[index]),
                "state": self.states[index],
            }
            for index in range(len(names))
        ]
        means = ("mean_iou", "mean_accuracy", "overall_accuracy")
        return {**{name: number(getattr(self, name)) for name in means}, "classes": rows}


def constant_baseline(matrix: Int[Tensor, "k k"]) -> Scores:
    """Score the predictor that always says the most frequent class of these labels."""
    constant = torch.zeros_like(matrix)
    constant[:, matrix.sum(1).argmax()] = matrix.sum(1)
    return Scores.from_confusion(constant)


def number(value: float) -> float | None:
    """Turn NaN, which JSON does not have, into None."""
    return None if value != value else value
