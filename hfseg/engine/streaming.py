"""Class maps of a video's frames, from a model that remembers those before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8

from hfseg.engine.inference import ProtocolConfig, SlideConfig
from hfseg.errors import ConfigError


@dataclass(frozen=True)
class StreamPredictor:
    """Shows each frame of a video once, and whole, to a model that keeps what it needs of those before.

    `stream` is a module that segments the next frame, and forgets those before by `reset()`.

    Raises:
        ConfigError: the protocol shows a frame several times, or in windows, each of which would need a memory.
    """

    stream: Any
    protocol: ProtocolConfig

    def __post_init__(self) -> None:
        if isinstance(self.protocol, SlideConfig) or len(self.protocol.scales) > 1 or self.protocol.flip:
            raise ConfigError(
                f"a stream sees each frame whole and once: got the protocol `{self.protocol.to_text()}`",
                hint="take `whole` or `squash` with one scale and without flips, or show clips instead of a stream",
            )

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
        """Predict the classes of the next frame at its own size."""
        device = next(self.stream.parameters()).device
        pixel_values = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
        views = self.protocol.views(self.stream, pixel_values)
        pred: Integer[np.ndarray, "h w"] = views.argmax((image.shape[0], image.shape[1]))[0].cpu().numpy()
        return pred

    def reset(self) -> None:
        """Forget the frames before: the next one begins a video, or a scene."""
        self.stream.reset()
