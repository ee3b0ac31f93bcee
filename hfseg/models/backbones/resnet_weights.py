"""ResNets as torchvision names them: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`.

Source: the names of torchvision's `resnet.py` (BSD 3-Clause), whose checkpoints (`resnet18-f37072fd.pth` ...) and those
of mmsegmentation over them use these; the layers are those of Transformers' ResNet, stride on the 3 x 3 convolution.
A stem of three 3 x 3 convolutions (`stem.0`, ResNet V1c) has no place in Transformers' ResNet: such a file is refused.
"""

import re
from collections.abc import Mapping

from torch import Tensor

NAMES: Mapping[str, str] = {
    r"^conv1\.": "embedder.embedder.convolution.",
    r"^bn1\.": "embedder.embedder.normalization.",
    r"^layer(\d)\.(\d+)\.downsample\.0\.": r"encoder.stages.\1.layers.\2.shortcut.convolution.",
    r"^layer(\d)\.(\d+)\.downsample\.1\.": r"encoder.stages.\1.layers.\2.shortcut.normalization.",
    r"^layer(\d)\.(\d+)\.conv(\d)\.": r"encoder.stages.\1.layers.\2.layer.\3.convolution.",
    r"^layer(\d)\.(\d+)\.bn(\d)\.": r"encoder.stages.\1.layers.\2.layer.\3.normalization.",
}
"""torchvision -> Transformers, but for stages and layers, which count from 1 there and from 0 here."""
COUNTED = re.compile(r"(stages|layer)\.(\d+)")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ResNets; other names stay as they are."""
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES.items():
        found, count = re.subn(pattern, replacement, name)
        if count:
            return COUNTED.sub(lambda match: f"{match[1]}.{int(match[2]) - 1}", found)
    return name
