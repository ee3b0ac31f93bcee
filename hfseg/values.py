"""What passes between the parts: samples, batches and model outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded image with its labels, as a data set gives it."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: Int[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]
    id: str

    @property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """What a model is shown: the image."""
        return self.image


@dataclass(frozen=True, slots=True)
class Clip:
    """One decoded image with its labels, and the frames before it."""

    frames: UInt8[np.ndarray, "t h w 3"]
    """The oldest first; the last one is the current frame, which the labels are of."""
    labels: Int[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]
    id: str

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current frame."""
        frame: UInt8[np.ndarray, "h w 3"] = self.frames[-1]
        return frame

    @property
    def pixels(self) -> UInt8[np.ndarray, "t h w 3"]:
        """What a model is shown: all frames."""
        return self.frames


def places_before(place: int, count: int, *, step: int, start: int = 0) -> list[int]:
    """Number the `count` frames before one, `step` apart, the oldest first; `start`, where its sequence begins, stands
    in for those that are missing.
    """
    return [max(start, place - step * back) for back in range(count, 0, -1)]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one size, stacked.

    `pixel_values` are bytes of 0..255, or floats of 0..1 once an on-device step has changed them. Those of clips have
    one more axis, their frames, the oldest first and the current one, which `labels` are of, last.
    `draws` holds one row of uniform numbers in [0, 1) per image or frame, from which on-device augmentation takes its
    randomness, so that it depends on the sample and not on the batch, the rank or the device.
    """

    pixel_values: Shaped[Tensor, "b *t 3 h w"]
    labels: Shaped[Tensor, "b h2 w2"]
    ids: tuple[str, ...]
    draws: Float[Tensor, "b *t p"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def images(self) -> Shaped[Tensor, "b 3 h w"]:
        """What the labels are of: the images, or the current frames of clips."""
        return self.pixel_values if self.pixel_values.dim() == 4 else self.pixel_values[:, -1]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Batch":
        """Move every tensor to `device`."""
        return replace(
            self,
            pixel_values=self.pixel_values.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            draws=None if self.draws is None else self.draws.to(device, non_blocking=non_blocking),
        )

    def pin(self) -> "Batch":
        """Copy every tensor to page-locked memory, from which a device can fetch it in the background."""
        return replace(
            self,
            pixel_values=self.pixel_values.pin_memory(),
            labels=self.labels.pin_memory(),
            draws=None if self.draws is None else self.draws.pin_memory(),
        )

    pin_memory = pin  # the name by which torch's DataLoader asks for it


class SegOutput(NamedTuple):
    """What a segmentation model says, at its decoder's own stride."""

    logits: Float[Tensor, "b k h w"]
    aux_logits: Float[Tensor, "b k h2 w2"] | None = None


class TappedOutput(NamedTuple):
    """What a segmentation model says, and the map from which its main classifier says it."""

    output: SegOutput
    features: Float[Tensor, "b c h w"] | None = None
    """What the classifier reads; None where nobody asked for it."""
    projected: Float[Tensor, "b d h w"] | None = None
    """The same in the width of another model."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of a batch that were counted for the scores: integers, so that sums do not depend on their order."""

    total: Mapping[str, Int[Tensor, "..."]]
    """Counts by name that are added up over a whole set."""
    images: Mapping[str, Int[Tensor, "b ..."]]
    """Counts by name that are kept for each image, in the order of the batch."""
