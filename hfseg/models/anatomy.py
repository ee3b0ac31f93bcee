"""Where the parts of a Hugging Face segmentation model are: encoder, stem, stages, heads, classifiers.

Every class names them in its own way. The encoder is `backbone`, or what the class calls its base model; where that is
a backbone around another, with a neck behind it, the encoder is the inner one and the neck counts as a head. Its stages
are the entries of its first module list of more than one entry: the four resolutions of a pyramid, the blocks of a
plain transformer or of MobileNetV2; where there is no such list, modules of one name with running numbers. The stem is
what stands before them.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.backbone_utils import BackboneMixin

from hfseg.errors import ModelError

BACKBONE = "backbone"
MAPS = 4
"""How many maps a decoder takes, and so how many stages an encoder has at least."""
HEAD_WORDS = ("head", "decoder")
"""What the names of children that end in a classifier contain."""


def encoder_name(hf: Any) -> str:
    """The full name of the module that is the encoder."""
    children = dict(hf.named_children())
    name = BACKBONE if BACKBONE in children else hf.base_model_prefix
    if name not in children:
        raise ModelError(f"no encoder found in `{type(hf).__name__}`: expected a child `{BACKBONE}` or `{name}`")
    inner = (inside for inside, module in children[name].named_children() if isinstance(module, BackboneMixin))
    return ".".join([name, *inner])


def head_names(hf: Any) -> tuple[str, ...]:
    """The full names of the outermost modules that are not the encoder: necks, heads."""
    outer, _, inner = encoder_name(hf).partition(".")
    necks = (f"{outer}.{name}" for name, _ in hf.get_submodule(outer).named_children() if inner and name != inner)
    return (*necks, *(name for name, _ in hf.named_children() if name != outer))


def stages(hf: Any) -> tuple[str, ...]:
    """The full names of the encoder's stages, in order."""
    encoder = encoder_name(hf)
    modules = sorted(hf.get_submodule(encoder).named_modules(prefix=encoder), key=lambda item: item[0].count("."))
    lists = ((name, tuple(module._modules)) for name, module in modules if _is_list_of_layers(module))
    numbered = ((name, _numbered(module)) for name, module in modules)
    found = [item for item in lists if len(item[1]) > 1] or [item for item in numbered if item[1]]
    name, children = found[0] if found else (encoder, ())
    return tuple(f"{name}.{child}" for child in children)


def _is_list_of_layers(module: nn.Module) -> bool:
    """Whether this is a list, and not only of norms, such as a backbone may keep for its outputs."""
    return isinstance(module, nn.ModuleList) and any(parameter.ndim > 1 for parameter in module.parameters())


def _numbered(module: nn.Module) -> tuple[str, ...]:
    """The children that are one name and running numbers, as timm has `layer1` to `layer4`; four or more of them."""
    by_word: dict[str, list[str]] = {}
    for name, child in module.named_children():
        if list(child.parameters()) and (match := re.fullmatch(r"(.*?)\d+", name)):
            by_word.setdefault(match[1], []).append(name)
    return tuple(next((names for names in by_word.values() if len(names) >= MAPS), ()))


def stem(hf: Any) -> tuple[str, ...]:
    """The full names of the encoder's outermost modules that stand before its stages."""
    if not stages(hf):
        return ()
    first = stages(hf)[0]
    found: list[str] = []
    for name, _ in hf.named_modules():
        if name == first:
            break
        inside = name.startswith(f"{encoder_name(hf)}.") and not first.startswith(f"{name}.")
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
