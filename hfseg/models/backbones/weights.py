"""Weights files: the encoder's part of what authors publish as a single file, under the names of our classes.

Files are read by safetensors, or by `torch.load(weights_only=True)`; nothing they hold is run.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hfseg.errors import ModelError
from hfseg.models.backbones.families import Traits
from hfseg.models.sources import COMPUTED, FAILURES, Loaded, load_state, reason

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar")
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "module")
"""Keys under which training checkpoints keep the weights, of which the first that is there counts."""
PARALLEL = "module."
"""What data-parallel training puts before every name."""
ENCODER = "backbone."
HEADS = ("decode_head.", "auxiliary_head.")
"""How the names of whole segmentation models begin, in mmseg as in Transformers' UPerNet."""
HEAD_NAMES: Mapping[str, str] = {r"\.conv_seg\.": ".classifier.", r"\.bn\.": ".batch_norm."}
"""mmseg -> Transformers."""
CLASSIFIER = re.compile(r"^(classifier|head|fc|pooler|norm|layernorm|layer_norm)\.")
"""What classifiers have behind the last map of an encoder."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, without a config."""

    path: Path

    @property
    def location(self) -> str:
        """Where it is."""
        return str(self.path)


def find(name: str) -> WeightsFile | None:
    """Take `name` as a weights file, if there is such a file.

    Raises:
        ModelError: it is a file of another kind.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    if not path.name.endswith(SUFFIXES):
        raise ModelError(
            f"`{name}` is no weights file: expected a name that ends in {', '.join(SUFFIXES)}",
            hint="of a model folder give the folder, which holds config.json",
        )
    return WeightsFile(path)


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, out of whatever a training checkpoint wraps them in.

    Raises:
        ModelError: it cannot be read, holds things other than tensors and numbers, or holds no weights.
    """
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError, *FAILURES) as error:
        raise ModelError(
            f"`{path}` cannot be read as weights: {reason(error)}",
            hint="only tensors are read, nothing in a file is run; a file that holds objects must be saved anew",
        ) from None
    while inner := _wrapped(content):
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(f"`{key}`" for key in list(content)[:6]) if isinstance(content, Mapping) else ""
        raise ModelError(f"`{path}` holds no weights: expected tensors by name, got {keys or type(content).__name__}")
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    while all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    return state


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Divide the weights of a whole segmentation model into the encoder's and the heads', as Transformers names them.

    What is no segmentation model is all encoder.
    """
    heads = {name: value for name, value in state.items() if name.startswith(HEADS)}
    rest = {name: value for name, value in state.items() if name not in heads}
    encoder = {name.removeprefix(ENCODER): value for name, value in rest.items() if name.startswith(ENCODER)}
    return encoder or rest, {_head_name(name): value for name, value in heads.items()}


def load_weights(
    model_class: Any, file: WeightsFile, *, config: Any, traits: Traits
) -> tuple[Loaded, dict[str, Tensor]]:
    """Build `model_class` with the encoder's part of a file; also give the heads' part.

    Raises:
        ModelError: the file cannot be read, or the class cannot be built as `config` says.
    """
    state, heads = split(read(file.path))
    if traits.from_published:
        state = traits.from_published(state)
    kept = {name: value for name, value in state.items() if not COMPUTED.search(name)}
    return load_state(model_class, kept, config=config, location=file.location), heads


def unexpected(loaded: Loaded) -> tuple[str, ...]:
    """The names in a file that an encoder has no use for, without those of a classifier."""
    prefix = f"{loaded.model.base_model_prefix}."
    return tuple(name for name in loaded.unexpected if not CLASSIFIER.match(name.removeprefix(prefix)))


def take_heads(hf: nn.Module, heads: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy the weights of heads into a model, and give the names of the parameters that got them.

    A head is taken when everything in it but its classifier is there with the same name and shape, the classifier when
    it has as many classes.
    """
    own = hf.state_dict()
    taken: dict[str, Tensor] = {}
    for prefix in HEADS:
        wanted = [name for name in own if name.startswith(prefix) and not COMPUTED.search(name)]
        fitting = [name for name in wanted if name in heads and heads[name].shape == own[name].shape]
        if fitting and all(".classifier." in name for name in wanted if name not in fitting):
            taken |= {name: heads[name] for name in fitting}
    hf.load_state_dict(taken, strict=False)
    parameters = {name for name, _ in hf.named_parameters()}
    return tuple(name for name in taken if name in parameters)


def _load(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a training script: plain values
        return torch.load(path, map_location="cpu", weights_only=True)


def _wrapped(content: Any) -> Mapping[Any, Any] | None:
    """What a training checkpoint keeps its weights in, if it is one."""
    if not isinstance(content, Mapping):
        return None
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)


def _head_name(name: str) -> str:
    for pattern, replacement in HEAD_NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name
