"""The plain way: the keys and values of every window, gathered. Needs `kernel_size`² times the memory of the map.

It is what the quick ways are compared with, and the only one that gives the probabilities themselves.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def attend(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    value: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Average the values of each window by the probabilities of its places."""
    probabilities = attention_probabilities(query, key, rpb=rpb, kernel_size=kernel_size, dilation=dilation)
    return average_values(probabilities, value, kernel_size=kernel_size, dilation=dilation)


def attention_probabilities(
    query: Float[Tensor, "b heads h w d"],
    key: Float[Tensor, "b heads h w d"],
    *,
    rpb: Float[Tensor, "heads r r"] | None,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w places"]:
    """Give the probabilities of the `kernel_size`² places of each window, row by row; computed in float32 at least."""
    rows, row_table = _places(query.shape[2], kernel_size, dilation, query.device)
    columns, column_table = _places(query.shape[3], kernel_size, dilation, query.device)
    keys = key[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    scores = torch.einsum("bnhwd,bnhwijd->bnhwij", query * query.shape[-1] ** -0.5, keys)
    if rpb is not None:
        scores = scores + rpb[:, row_table[:, None, :, None], column_table[None, :, None, :]]
    kept = torch.promote_types(scores.dtype, torch.float32)
    return scores.flatten(4).softmax(-1, dtype=kept).to(query.dtype)


def average_values(
    probabilities: Float[Tensor, "b heads h w places"],
    value: Float[Tensor, "b heads h w d"],
    *,
    kernel_size: int,
    dilation: int,
) -> Float[Tensor, "b heads h w d"]:
    """Average the values of each window's places by given weights."""
    rows, _ = _places(value.shape[2], kernel_size, dilation, value.device)
    columns, _ = _places(value.shape[3], kernel_size, dilation, value.device)
    values = value[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    weights = probabilities.unflatten(-1, (kernel_size, kernel_size))
    return torch.einsum("bnhwij,bnhwijd->bnhwd", weights, values)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # made while evaluating, they serve training too, which must be able to save them
def _places(length: int, kernel_size: int, dilation: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each place of an axis: the places of its window, and their rows of the table."""
    position = torch.arange(length)
    group, place = position % dilation, position // dilation
    group_length = (length - group + dilation - 1) // dilation
    start = (place - kernel_size // 2).clamp(min=0).minimum(group_length - kernel_size)
    taken = start[:, None] + torch.arange(kernel_size)
    return (taken * dilation + group[:, None]).to(device), (taken - place[:, None] + kernel_size - 1).to(device)
