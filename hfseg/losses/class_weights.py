"""How much a class counts in the losses of pixels."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from hfseg.errors import ConfigError


def balanced_weights(pixels: Sequence[int]) -> Float[Tensor, " k"]:
    """Weigh each class by 1 / ln(1.02 + its share of the labelled pixels), scaled to a mean of 1.

    The rarest class counts at most 51 times as much as one that covers everything; a class without pixels gets the
    weight of the rarest there could be.
    Source: Paszke et al., ENet, arXiv 1606.02147, section 5.2 (c = 1.02).
    """
    shares = torch.tensor(pixels, dtype=torch.float64)
    shares = shares / shares.sum().clamp(min=1)
    weights = 1 / torch.log(1.02 + shares)
    return (weights / weights.mean()).float()


def read_weights(path: Path, names: Sequence[str]) -> Float[Tensor, " k"]:
    """Read weights from a YAML or JSON file: class name -> weight, or a list in the order of the classes.

    Raises:
        ConfigError: it cannot be read, a class is missing or unknown, a weight is no finite number of 0 or more, or
            all are 0.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"class weights `{path}` cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(tree, list) and len(tree) == len(names):
        tree = dict(zip(names, tree, strict=True))
    if not isinstance(tree, dict) or set(tree) != set(names):
        found = f"{len(tree)} values" if isinstance(tree, list) else f"`{', '.join(map(str, tree or ()))}`"
        raise ConfigError(
            f"class weights `{path}` do not fit the {len(names)} classes: got {found}",
            hint=f"give one weight for each of {', '.join(names)}, by name or as a list in this order",
        )
    for name, value in tree.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            continue
        raise ConfigError(f"class weights `{path}`: `{name}` has the weight {value!r}, expected a number of 0 or more")
    if not any(tree.values()):
        raise ConfigError(f"class weights `{path}` are all 0: nothing would be learned")
    return torch.tensor([float(tree[name]) for name in names])
