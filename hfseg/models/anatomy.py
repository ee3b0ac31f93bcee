"""Where the parts of a Hugging Face segmentation model are: encoder, stem, stages, heads, classifiers.

Every class names them in its own way. The encoder is `backbone`, or what the class calls its base model. Its stages are
the entries of its first module list of more than one entry: the four resolutions of a pyramid, the blocks of a plain
transformer or of MobileNetV2. The stem is what stands before that list.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from hfseg.errors import ModelError

BACKBONE = "backbone"
HEAD_WORDS = ("head", "decoder")
"""What the names of children that end in a classifier contain."""


def encoder_name(hf: Any) -> str:
    """The name of the child that is the encoder."""
    children = dict(hf.named_children())
    name = BACKBONE if BACKBONE in children else hf.base_model_prefix
    if name not in children:
        raise ModelError(f"no encoder found in `{type(hf).__name__}`: expected a child `{BACKBONE}` or `{name}`")
    return str(name)


def head_names(hf: Any) -> tuple[str, ...]:
    """The names of the children that are not the encoder: heads, necks."""
    return tuple(name for name, _ in hf.named_children() if name != encoder_name(hf))


def stages(hf: Any) -> tuple[str, ...]:
    """The full names of the encoder's stages, in order."""
    encoder = encoder_name(hf)
    lists = (
        (name, module)
        for name, module in hf.get_submodule(encoder).named_modules(prefix=encoder)
        if isinstance(module, nn.ModuleList) and len(module) > 1
    )
    name, module = min(lists, key=lambda item: item[0].count("."), default=(encoder, ()))
    return tuple(f"{name}.{index}" for index in range(len(module)))


def stem(hf: Any) -> tuple[str, ...]:
    """The full names of the encoder's outermost modules that stand before its stages."""
    if not stages(hf):
        return ()
    listed = stages(hf)[0].rpartition(".")[0]
    found: list[str] = []
    for name, _ in hf.named_modules():
        if name == listed:
            break
        inside = name.startswith(f"{encoder_name(hf)}.") and not listed.startswith(f"{name}.")
        if inside and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return tuple(found)


def classifiers(hf: Any) -> dict[str, nn.Conv2d | nn.Linear]:
    """The last layer of each head, by full name: those that give one number per class.

    Raises:
        ModelError: no head ends in a layer of `num_labels` outputs.
    """
    found = dict(_classifiers(hf))
    if not found:
        raise ModelError(f"no classifier of {hf.config.num_labels} classes found in `{type(hf).__name__}`")
    return found


def _classifiers(hf: Any) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    for head in head_names(hf):
        if not any(word in head for word in HEAD_WORDS):
            continue
        layers = [
            (name, module)
            for name, module in hf.get_submodule(head).named_modules(prefix=head)
            if (isinstance(module, nn.Conv2d) and module.out_channels == hf.config.num_labels)
            or (isinstance(module, nn.Linear) and module.out_features == hf.config.num_labels)
        ]
        named = [item for item in layers if "classifier" in item[0]]
        if layers:
            yield (named or layers)[-1]
