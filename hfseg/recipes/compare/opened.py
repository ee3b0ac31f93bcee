"""A member's model that is open, and what one prediction of it is: of an image, a clip, the next frame of a video.

A model of a finished run has the run's weights. One that was never trained has random ones: it costs the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image
from torch import Tensor

from hfseg.data import model_input
from hfseg.engine.cost import Call
from hfseg.engine.inference import ProtocolConfig, shown_once
from hfseg.labels import LabelSpace
from hfseg.models import CheckpointModelConfig, FrameStream, Segmenter, adapt, freeze, open_model
from hfseg.recipes.pictures import predict_images
from hfseg.recipes.run import FinetuneConfig
from hfseg.values import Clip, Sample
from hfseg.viz import save_index_mask


@dataclass(frozen=True)
class Opened:
    """A member's model, and how it is shown images."""

    segmenter: Segmenter
    protocol: ProtocolConfig

    @property
    def memory_frames(self) -> int:
        """How many frames before an image the model reads."""
        return self.segmenter.memory_frames or 0

    @property
    def has_own_frames(self) -> bool:
        """Whether the next frame of a video is predicted otherwise than an image as it is evaluated."""
        return bool(self.memory_frames) or shown_once(self.protocol) != self.protocol

    def image_call(self, image: UInt8[np.ndarray, "h w 3"], device: torch.device, *, count: int = 1) -> Call:
        """Give the prediction of an image as it is evaluated: resizing, every view, and the class of every pixel.

        A model with memory sees the image as the last frame of a clip of its length.
        """
        pixels = _batch(image, self.protocol, device, count)
        frames = 1 + self.memory_frames
        seen = pixels if frames == 1 else pixels[:, None].expand(-1, frames, -1, -1, -1).contiguous()
        height, width, _ = image.shape
        return lambda: self.protocol.predict(self.segmenter, seen, (height, width))

    def frame_call(self, image: UInt8[np.ndarray, "h w 3"], device: torch.device, *, count: int = 1) -> Call:
        """Give the prediction of the next frame of a video, shown whole and once; of so many videos side by side.

        A model with memory reads what it kept of the frames before. At the first call the frame stands in for them, so
        that all calls compute the same.
        """
        protocol = shown_once(self.protocol)
        pixels = _batch(image, protocol, device, count)
        model = FrameStream(self.segmenter) if self.memory_frames else self.segmenter
        height, width, _ = image.shape
        return lambda: protocol.predict(model, pixels, (height, width))

    def predict(self, sample: Sample | Clip) -> Integer[np.ndarray, "h w"]:
        """Predict an image, or the last frame of a clip that is at least as long as the model's memory."""
        seen = sample.pixels[-1 - self.memory_frames :] if self.memory_frames else sample.image
        return predict_images(self.segmenter, [seen], protocol=self.protocol)[0]


def _batch(image: UInt8[np.ndarray, "h w 3"], protocol: ProtocolConfig, device: torch.device, count: int) -> Tensor:
    """Give an image as a loader does, so many times."""
    seen = torch.from_numpy(model_input(image, short_side=protocol.loader_short_side).copy()).permute(2, 0, 1)
    return seen.expand(count, -1, -1, -1).contiguous().to(device)


def trained(folder: Path) -> Segmenter:
    """Open the model that a run left.

    Raises:
        ModelError: it is not there, or damaged.
    """
    return open_model(folder)[0]


def untrained(config: FinetuneConfig, labels: LabelSpace) -> Segmenter:
    """Build the model of a run as its training begins, with random weights; a whole checkpoint has its own.

    Raises:
        ModelError: the model cannot be built, or a checkpoint cannot be had.
    """
    torch.manual_seed(config.seed)
    model = config.model
    if not isinstance(model, CheckpointModelConfig):
        model = model.model_copy(update={"pretrained": "none"})
    segmenter = model.build(labels, crop=config.augment.crop)
    adapt(segmenter, config.adapter)
    freeze(segmenter, config.freeze.patterns(0))
    return segmenter.eval()


def draw_predictions(
    opened: Mapping[str, Opened], samples: Iterable[Sample | Clip], folder: Path, space: LabelSpace
) -> list[str]:
    """Write what every model predicts for each image, as index masks, beside the image and its labels; give the ids."""
    ids = []
    for sample in samples:
        stem = Path(sample.id).name
        target = folder / stem
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image).save(target / "image.jpg", quality=90)
        save_index_mask(sample.labels, space, target / "labels.png")
        for name, model in opened.items():
            save_index_mask(model.predict(sample), space, target / f"member-{name}.png")
        ids.append(stem)
    return ids
