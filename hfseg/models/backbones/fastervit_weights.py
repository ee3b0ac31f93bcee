"""Reading the published weights of FasterViT: training checkpoints `fastervit_*.pth.tar`.

Most names are those of our modules. Left out are the classifier, the norm before it, and what the position networks
had computed for one image size; the convolution of the carrier tokenizer stands twice in the file.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hfseg.errors import ModelError

LEFT_OUT = re.compile(r"^(norm|head)\.|\.(relative_bias|relative_coords_table|relative_position_index)$")
TWICE = (".global_tokenizer.to_global_feature.pos.", ".global_tokenizer.pos_embed.")
"""The two names of the tokenizer's convolution; the second is ours."""
GAMMA = re.compile(r"^(levels\.(\d+)\.blocks\.\d+)\.gamma(\d+)$")
WINDOW_ENDS = ("attn_end.gamma", "mlp_end.gamma")
CARRIER_ENDS = ("hat_attn_end.gamma", "hat_mlp_end.gamma")


def from_published(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename the parameters of a published checkpoint, or of the `state_dict` inside it, to ours.

    A name that is not known stays as it is, for the caller to refuse. Names that are ours already pass.

    Raises:
        ModelError: the two copies of one parameter differ.
    """
    state = _state(checkpoint)
    scales = _scale_names(state)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if LEFT_OUT.search(name):
            continue
        new = scales.get(name, name.replace(*TWICE))
        if new in renamed and not torch.equal(renamed[new], tensor):
            raise ModelError(
                f"`{name}` differs from its second copy in the same checkpoint: expected one tensor under two names",
                hint="the file is damaged, or of another model",
            )
        renamed[new] = tensor
    return renamed


def published_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings of `FasterVitConfig` that a published checkpoint was made with from the shapes in it.

    Whether there is layer scale is seen, but not its initial value, which only matters to new weights: 1e-5 is given.
    Any other file tells nothing.
    """
    state = _state(checkpoint)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    blocks = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"levels\.(\d+)\.blocks\.(\d+)\.", name))}
    first = [f"levels.{level}.blocks.0" for level in (2, 3)]
    try:
        stem, width = shapes["patch_embed.conv_down.0.weight"], shapes["patch_embed.conv_down.3.weight"]
        heads = [shapes[f"{block}.attn.pos_emb_funct.cpb_mlp.2.weight"][0] for block in first]
        reach = [shapes[f"{block}.attn.pos_emb_funct.relative_coords_table"][1] for block in first]
        joint = shapes[f"{first[0]}.attn.pos_emb_funct.relative_bias"][-1]
        wide, narrow = shapes[f"{first[0]}.mlp.fc1.weight"]
    except KeyError:
        return {}
    windows = [(length + 1) // 2 for length in reach]
    return {
        "num_channels": stem[1],
        "stem_channels": stem[0],
        "embed_dim": width[0],
        "depths": [sum(level == each for level, _ in blocks) for each in range(4)],
        "num_heads": heads,
        "window_size": windows,
        "carrier_size": round((joint - windows[0] ** 2) ** 0.5),
        "mlp_ratio": wide / narrow,
        "layer_scale_init_value": 1e-5 if any(GAMMA.match(name) for name in shapes) else None,
    }


def _state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of a training checkpoint, without the prefix that data-parallel training gives."""
    return {name.removeprefix("module."): value for name, value in checkpoint.get("state_dict", checkpoint).items()}


def _scale_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of the published layer scales -> ours.

    They are numbered. The blocks of the last level have no carrier tokens, so their two numbers are those of the
    windows' branches, everywhere; the two others are the carrier tokens'. Of each pair the lower is the attention's.
    """
    found = [match for name in state if (match := GAMMA.match(name))]
    window = sorted({int(match[3]) for match in found if match[2] == "3"})
    carrier = sorted({int(match[3]) for match in found} - set(window))
    ours = {number: end for numbers, ends in ((window, WINDOW_ENDS), (carrier, CARRIER_ENDS))
            if len(numbers) == len(ends) for number, end in zip(numbers, ends, strict=True)}  # fmt: skip
    return {match[0]: f"{match[1]}.{ours[int(match[3])]}" for match in found if int(match[3]) in ours}
