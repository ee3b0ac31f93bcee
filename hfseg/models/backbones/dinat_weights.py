"""The weights of NAT and DiNAT as their authors publish them, under the names of our classes.

Source: github.com/SHI-Labs/Neighborhood-Attention-Transformer (MIT), classification and mmseg models.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_LAYER = r"^levels\.(\d+)\.blocks\.(\d+)\."
_NEW_LAYER = r"encoder.levels.\1.layers.\2."
RENAMED: Mapping[str, str] = {
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^patch_embed\.norm\.": "embeddings.norm.",
    rf"{_LAYER}norm1\.": f"{_NEW_LAYER}layernorm_before.",
    rf"{_LAYER}norm2\.": f"{_NEW_LAYER}layernorm_after.",
    rf"{_LAYER}attn\.rpb$": f"{_NEW_LAYER}attention.self.rpb",
    rf"{_LAYER}attn\.proj\.": f"{_NEW_LAYER}attention.output.dense.",
    rf"{_LAYER}mlp\.fc1\.": f"{_NEW_LAYER}intermediate.dense.",
    rf"{_LAYER}mlp\.fc2\.": f"{_NEW_LAYER}output.dense.",
    r"^levels\.(\d+)\.downsample\.": r"encoder.levels.\1.downsample.",
}
"""Names in the authors' files -> names here. `qkv` is divided into three, `gamma1` and `gamma2` become one parameter,
and the norms `norm0` to `norm3` of segmentation models are those of the stages."""
CLASSIFIER = re.compile(r"^(norm|head)\.")
"""What only a classifier has."""


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of the authors' files (classifiers, or the encoder of their mmseg models) to ours.

    The classifier and the norm before it are left out. A name that is not known stays as it is, for the caller to
    refuse. Names that are ours already pass.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = re.match(_LAYER, name)
        new_layer = layer.expand(_NEW_LAYER) if layer else ""
        if CLASSIFIER.match(name):
            continue
        if fused := re.search(r"attn\.qkv\.(weight|bias)$", name):
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{new_layer}attention.self.{part}.{fused[1]}"] = piece
        elif layer and name.endswith("gamma1"):
            pair = [tensor, state[name.removesuffix("1") + "2"]]
            renamed[f"{new_layer}layer_scale_parameters"] = torch.stack(pair)
        elif layer and name.endswith("gamma2"):
            continue
        elif norm := re.match(r"^norm(\d)\.", name):
            renamed[f"hidden_states_norms.stage{int(norm[1]) + 1}.{name[norm.end() :]}"] = tensor
        else:
            renamed[_renamed(name)] = tensor
    return renamed


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name
