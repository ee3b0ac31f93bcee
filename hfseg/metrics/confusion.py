"""Counting pixels by label and prediction: the only place where it is done."""

import torch
from jaxtyping import Int, Integer
from torch import Tensor

_NARROW = 255
"""Ignored labels up to this value get a row of their own instead of a pass over the labels."""


def confusion(
    pred: Int[Tensor, "*b h w"], labels: Integer[Tensor, "*b h w"], *, num_labels: int, ignore_index: int = 255
) -> Int[Tensor, "k k"]:
    """Count pixels by (label, prediction) over all images, leaving out ignored labels; see `confusions`."""
    _check_shapes(pred, labels)
    flat_pred, flat_labels = pred.reshape(1, 1, -1), labels.reshape(1, 1, -1)
    return confusions(flat_pred, flat_labels, num_labels=num_labels, ignore_index=ignore_index)[0]


def confusions(
    pred: Integer[Tensor, "b h w"], labels: Integer[Tensor, "b h w"], *, num_labels: int, ignore_index: int = 255
) -> Int[Tensor, "b k k"]:
    """Count pixels by (label, prediction) image by image, leaving out ignored labels.

    Rows are labels, columns predictions; the counts stay on the device of the labels. The check reads a few numbers
    back, for which the host waits.

    Raises:
        ValueError: the shapes differ; a kept label, or the prediction of a kept pixel, lies outside [0, num_labels).
    """
    _check_shapes(pred, labels)
    rows, ignored = labels.to(torch.int32, copy=True), ignore_index
    if not num_labels <= ignore_index <= _NARROW:  # compared as integers: among bytes, -100 would be 156
        rows, ignored = rows.masked_fill_(rows == ignore_index, num_labels), num_labels
    (low, high), (first, last) = rows.aminmax(), pred.aminmax()
    height = max(num_labels, ignored) + 1
    if low < 0 or high >= height or first < 0 or last >= num_labels:
        _check_values(pred, labels, num_labels=num_labels, ignore_index=ignore_index)
        pred = pred.clamp(0, num_labels - 1)  # what is out of range is ignored
    bins = height * num_labels
    cells = rows.mul_(num_labels).add_(pred.to(torch.int32)).flatten(1)
    cells += torch.arange(0, len(cells) * bins, bins, dtype=torch.int32, device=cells.device)[:, None]
    counts = torch.bincount(cells.flatten(), minlength=len(cells) * bins).view(len(cells), height, num_labels)
    if height > num_labels + (ignored == num_labels) and counts[:, num_labels:ignored].any():
        _check_values(pred, labels, num_labels=num_labels, ignore_index=ignore_index)
    return counts[:, :num_labels]


def _check_shapes(pred: Tensor, labels: Tensor) -> None:
    if pred.shape != labels.shape:
        raise ValueError(f"prediction has the shape {tuple(pred.shape)}: expected the labels' {tuple(labels.shape)}")


def _check_values(pred: Tensor, labels: Tensor, *, num_labels: int, ignore_index: int) -> None:
    """Find what is out of range among the pixels that count.

    Raises:
        ValueError: names the value.
    """
    labels = labels.long()
    kept = labels != ignore_index
    for name, values in (("label", labels[kept]), ("prediction", pred[kept])):
        outside = values[(values < 0) | (values >= num_labels)]
        if outside.numel():
            raise ValueError(
                f"{name} {int(outside[0])} in {outside.numel()} pixels: expected 0 to {num_labels - 1}"
                + (f" or {ignore_index}, which is ignored" if name == "label" else "")
            )
