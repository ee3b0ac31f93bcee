"""From images to class maps at the size that is asked for: the only place where predictions are made.

A protocol says at which size, in which windows and in how many views a model sees an image. Scores under different
protocols cannot be compared, so it is part of every number that is printed or stored. What is said here of an image
holds for a clip, of which all frames are treated alike and the current one is predicted.
"""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hfseg.config import Config
from hfseg.engine.canvas import Canvas, Mirrored, Views, Whole
from hfseg.engine.windows import slide
from hfseg.engine.xla import FromHost, is_on_xla
from hfseg.sizes import scaled_size

Size = PositiveInt | tuple[PositiveInt, PositiveInt]


class InferenceProtocol(Config):
    """What every protocol has: views, and what is made of them."""

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    """Factors on the size at which the model sees the image: one view for each. The probabilities of several views are
    averaged at the size of the labels."""
    flip: bool = False
    """Add the mirror image of each view."""

    @property
    @abstractmethod
    def loader_short_side(self) -> int | None:
        """The short side to which a loader brings images, with Pillow; None where it leaves their size alone."""

    @abstractmethod
    def to_text(self) -> str:
        """Name the protocol in a few words."""

    def predict(
        self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"], size: tuple[int, int]
    ) -> Int[Tensor, "b h2 w2"]:
        """Predict the class of every pixel at `size` (height, width), from images as the loader gives them.

        Memory does not grow with classes times pixels. The model stays in the mode it is in.
        """
        return self.views(model, pixel_values).argmax(size)

    @torch.inference_mode()
    def views(self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> Views:
        """Show images, as the loader gives them, to the model in every view: bytes of 0..255 or floats of 0..1."""
        if is_on_xla(model):
            model, pixel_values = FromHost(model), pixel_values.cpu()
        given = (pixel_values.shape[-2], pixel_values.shape[-1])
        canvases: list[Canvas] = []
        for scale in self.scales:
            pixels = resize_pixels(pixel_values, self._seen_size(given, scale))
            canvases.append(self._look(model, pixels))
            if self.flip:
                canvases.append(Mirrored(self._look(model, pixels.flip(-1))))
        return Views(tuple(canvases))

    @abstractmethod
    def _seen_size(self, given: tuple[int, int], scale: float) -> tuple[int, int]:
        """The height and width at which the model sees an image."""

    @abstractmethod
    def _look(self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> Canvas:
        """Show images to the model at the size they have."""

    @property
    def _views_text(self) -> list[str]:
        listed = " ".join(f"{scale:g}" for scale in sorted(self.scales))
        scales = [] if listed == "1" else [f"scale{'s' if len(self.scales) > 1 else ''} {listed}"]
        return [*scales, "flip"] if self.flip else scales


class KeptRatio(InferenceProtocol):
    """A protocol that keeps the shape of the image."""

    short_side: PositiveInt | None = None
    """Pixels to which the shorter side of an image is brought, at scale 1; its own size where it is not given."""

    @property
    def loader_short_side(self) -> int | None:
        """The short side to which a loader brings images; with other scales than 1 each is made from the original."""
        return self.short_side if self.scales == (1.0,) else None

    def _seen_size(self, given: tuple[int, int], scale: float) -> tuple[int, int]:
        return scaled_size(given, short_side=self.short_side, scale=scale)

    @property
    def _size_text(self) -> str:
        return "native size" if self.short_side is None else f"short side {self.short_side}"


class WholeConfig(KeptRatio):
    """The whole image at once, its aspect kept."""

    kind: Literal["whole"] = "whole"

    def to_text(self) -> str:
        """Name the protocol, as `whole image, short side 512`."""
        return ", ".join(["whole image", self._size_text, *self._views_text])

    def _look(self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> Canvas:
        return Whole(model(pixel_values))


class SquashConfig(InferenceProtocol):
    """The whole image, squashed to one size whatever its shape: what Hugging Face's image processors do."""

    kind: Literal["squash"] = "squash"
    size: Size = 512
    """Pixels: one number for a square, or [height, width]."""

    @property
    def loader_short_side(self) -> None:
        """A loader leaves images at their own size."""
        return None

    def to_text(self) -> str:
        """Name the protocol, as `squashed to 512 x 512`."""
        height, width = _pair(self.size)
        return ", ".join([f"squashed to {height} x {width}", *self._views_text])

    def _seen_size(self, given: tuple[int, int], scale: float) -> tuple[int, int]:
        height, width = _pair(self.size)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _look(self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> Canvas:
        return Whole(model(pixel_values))


class SlideConfig(KeptRatio):
    """Overlapping windows of the image, their logits averaged.

    Source: `test_cfg=dict(mode="slide")` of mmsegmentation; the default is that of its ConvNeXt recipes.
    """

    kind: Literal["slide"] = "slide"
    crop_size: Size = 512
    """Pixels of a window: one number for a square, or [height, width]."""
    stride: Size | None = None
    """Pixels between windows: one number, or [down, across]; two thirds of the window where it is not given, as
    ConvNeXt has it (341 of 512, 426 of 640)."""
    window_batch: PositiveInt = 8
    """Windows that go through the model at once."""

    @model_validator(mode="after")
    def _no_gaps(self) -> "SlideConfig":
        if any(step > side for step, side in zip(self.steps, self.crop, strict=True)):
            raise ValueError(
                f"`stride` leaves gaps between windows: got {_by(self.steps)}, expected at most `crop_size`, which is "
                f"{_by(self.crop)}"
            )
        return self

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a window."""
        return _pair(self.crop_size)

    @property
    def steps(self) -> tuple[int, int]:
        """Pixels between windows, down and across."""
        height, width = self.crop
        return (max(1, height * 2 // 3), max(1, width * 2 // 3)) if self.stride is None else _pair(self.stride)

    def to_text(self) -> str:
        """Name the protocol, as `slide 512 x 512, stride 341 x 341, short side 512`."""
        windows = f"slide {_by(self.crop)}, stride {_by(self.steps)}"
        return ", ".join([windows, self._size_text, *self._views_text])

    def _look(self, model: nn.Module, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> Canvas:
        return slide(model, pixel_values, crop=self.crop, stride=self.steps, batch_size=self.window_batch)


ProtocolConfig = Annotated[WholeConfig | SquashConfig | SlideConfig, Field(discriminator="kind")]


def shown_once(protocol: ProtocolConfig) -> WholeConfig | SquashConfig:
    """Give the protocol that shows images whole and once, at the size at which this one shows them at scale 1.

    So a frame of a video is shown to a model that remembers it: windows and views would each need a memory.
    """
    if isinstance(protocol, SlideConfig):
        return WholeConfig(short_side=protocol.short_side)
    return protocol.model_copy(update={"scales": (1.0,), "flip": False})


def resize_pixels(
    pixel_values: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"], size: tuple[int, int]
) -> UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h2 w2"]:
    """Resize images or frames on their device as Pillow's bilinear filter does; gives floats of 0..1, not rounded.

    Images that have the size are given back as they are.
    """
    if pixel_values.shape[-2:] == size:
        return pixel_values
    floats = pixel_values if pixel_values.is_floating_point() else pixel_values / 255
    flat = F.interpolate(floats.flatten(0, -4), size=size, mode="bilinear", align_corners=False, antialias=True)
    return flat.view(*pixel_values.shape[:-2], *size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
