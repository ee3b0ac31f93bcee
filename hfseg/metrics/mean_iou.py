"""The scores as an `evaluate.Metric`, without the Hub and without keeping pixels."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hfseg.metrics.confusion import confusion
from hfseg.metrics.scores import Scores

_INPUTS = """
Args:
    predictions: class maps of one image (h w) or several (b h w, or a list of maps of any sizes).
    references: labels of the same shapes.
"""
_REFUSED = ("label_map", "reduce_labels")


class MeanIou(evaluate.Metric):
    """Mean IoU and accuracy over a data set, under the names of `evaluate`'s `mean_iou`.

    Only a confusion matrix is kept, however many maps are added. Labels are taken as they are: what a data set's raw
    values mean belongs to its `LabelSpace`.

    Raises:
        ValueError: `ignore_index` is one of the classes, or a map holds a value outside of them.
    """

    def __init__(self, *, num_labels: int, ignore_index: int = 255) -> None:
        if 0 <= ignore_index < num_labels:
            raise ValueError(f"ignore_index {ignore_index} is also one of the {num_labels} classes")
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self._clear()
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Mean intersection over union and pixel accuracy from one confusion matrix",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count the pixels of one class map and its labels."""
        _refuse(kwargs)
        pred, labels = _tensor(prediction), _tensor(reference)
        self._matrix += confusion(pred.long(), labels, num_labels=self.num_labels, ignore_index=self.ignore_index).cpu()

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count the pixels of several class maps and their labels."""
        _refuse(kwargs)
        preds, references = _maps(predictions), _maps(references)
        if len(preds) != len(references):
            raise ValueError(f"there are {len(preds)} predictions and {len(references)} references: expected as many")
        for pred, labels in zip(preds, references, strict=True):
            self.add(prediction=pred, reference=labels)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Score everything that was added, and the maps that are given here; then start anew.

        `nan_to_num` replaces the score of classes that have none, as NumPy's function does.
        """
        nan_to_num = kwargs.pop("nan_to_num", None)
        _refuse(kwargs)
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self._matrix.any():
            raise ValueError("there is nothing to score: no labelled pixel was added")
        scores = Scores.from_confusion(self._matrix)
        self._clear()
        return _named(scores, nan_to_num)

    def _clear(self) -> None:
        self._matrix: Int[Tensor, "k k"] = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64)


def _named(scores: Scores, nan_to_num: float | None) -> dict[str, Any]:
    by_class = {
        "per_category_iou": np.asarray(scores.per_category_iou),
        "per_category_accuracy": np.asarray(scores.per_category_accuracy),
    }
    if nan_to_num is not None:
        by_class = {name: np.nan_to_num(values, nan=nan_to_num) for name, values in by_class.items()}
    means = {name: getattr(scores, name) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}
    return {**means, **by_class}


def _refuse(kwargs: dict[str, Any]) -> None:
    """Accept what `mean_iou` takes only where it changes nothing.

    Raises:
        ValueError: an argument would change labels, or is not known.
    """
    for name, value in kwargs.items():
        if name not in _REFUSED:
            raise ValueError(
                f"`{name}` is not an argument of MeanIou: num_labels and ignore_index are given once, first"
            )
        if value:
            raise ValueError(
                f"`{name}` would change labels a second time: a LabelSpace has done it when they were read"
            )


def _maps(values: Any) -> Sequence[Any] | np.ndarray | Tensor:
    """Give class maps one by one; a lone map counts as one."""
    if values is None:
        raise ValueError("both predictions and references are needed: got one of them")
    if isinstance(values, np.ndarray | Tensor):
        return values if values.ndim == 3 else [values]
    return list(values)


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
