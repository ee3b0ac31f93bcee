"""What speaks for a class in an image: which class, where, at which layer; and that in words and as a picture."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from hfseg.config import Config
from hfseg.errors import DataError
from hfseg.explain import Box, Fill, Layer, Method, Point, PredictedPixels, Region, WholeImage, find_layer, observing
from hfseg.recipes.explain.clips import Pixels, current
from hfseg.recipes.explain.opened import Opened
from hfseg.viz import heat_picture

TITLES: dict[Method, str] = {
    "gradcam": "Seg-Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
}
NOTHING = "nothing at this layer speaks for"

Corners = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt]


class CamConfig(Config):
    """Which class is explained, where, and at which layer."""

    kind: Literal["cam"] = "cam"
    """Picks this explanation."""
    label: str | None = None
    """The class, by name or id; where it is not given the one with the most predicted pixels, `background` left out."""
    region: Literal["predicted", "image"] | tuple[NonNegativeInt, NonNegativeInt] | Corners = "predicted"
    """Whose score is explained: the pixels that are predicted as the class, the whole image, the pixel (x, y), or a box
    by two corners (x, y, x, y)."""
    layer: str | None = None
    """`stage1` ... of the encoder, or the name of a module (`encoder.stages.3`, `head.classifier`); the encoder's last
    stage where it is not given."""
    method: Method = "gradcam"
    """How the channels of the layer are weighed."""
    check: bool = False
    """Measure deletion and insertion, and draw the weights anew, to see whether the map is to be believed: minutes."""
    fill: Fill = "blur"
    """What stands in the place of removed pixels in the check: the blurred image, or its mean colour."""
    check_steps: Annotated[int, Field(ge=2)] = 16
    """Steps in which pixels are removed in the check."""
    check_orders: PositiveInt = 3
    """Random orders of removal that the check compares with."""
    every: PositiveInt = 1
    """Of a clip, each how-manieth frame is explained."""
    gif_frames: Annotated[int, Field(ge=2)] = 60
    """The most frames of a clip's GIF, spread evenly over it."""

    @model_validator(mode="after")
    def _check_is_asked_for(self) -> "CamConfig":
        idle = {"fill", "check_steps", "check_orders"} & self.model_fields_set
        if idle and not self.check:
            raise ValueError(f"`{min(idle)}` has no effect without `check`")
        return self

    def region_in(self, image: UInt8[np.ndarray, "h w 3"]) -> Region:
        """Turn the region's pixels into shares of an image.

        Raises:
            DataError: it lies outside the image.
        """
        if isinstance(self.region, str):
            return PredictedPixels() if self.region == "predicted" else WholeImage()
        height, width, _ = image.shape
        corners = [self.region[at : at + 2] for at in range(0, len(self.region), 2)]
        if any(x >= width or y >= height for x, y in corners):
            raise DataError(
                f"region {','.join(map(str, self.region))} lies outside an image of {width} x {height} pixels",
                hint="pixels are counted from 0, x to the right and y down",
            )
        shares = [((x + 0.5) / width, (y + 0.5) / height) for x, y in corners]
        return Point(shares[0]) if len(shares) == 1 else Box(shares[0], shares[1])


@dataclass(frozen=True)
class Explained:
    """The map of one image; None where the class is predicted nowhere in it."""

    class_id: int
    heat: Float[Tensor, "h w"] | None
    region: Bool[Tensor, "h2 w2"]


class Explainer:
    """Explains one image after the other by the same layer, and where no class was named by that of the first."""

    def __init__(self, config: CamConfig, opened: Opened) -> None:
        self._config, self._opened = config, opened
        self._class_id = None if config.label is None else opened.class_id(config.label)
        self._name = opened.layer_name(config.layer)
        self._layer: Layer | None = None

    @property
    def layer_name(self) -> str:
        """The layer's name in the Hugging Face model."""
        return (self._layer.name if self._layer else self._name).removeprefix("hf.")

    def explain(self, pixels: Pixels, *, keep_class: bool = False) -> Explained:
        """Explain an image, or the current frame of a clip; with `keep_class`, a class that was found in it is that of
        the following ones too.
        """
        opened, pixel_values = self._opened, self._opened.see(pixels)
        if self._layer is None:
            self._layer = find_layer(opened.segmenter, self._name, pixel_values)
        with observing(opened.segmenter, self._layer, pixel_values) as seen:
            class_id = self._largest(seen.logits) if self._class_id is None else self._class_id
            if keep_class:
                self._class_id = class_id
            region = self._config.region_in(current(pixels)).mask(seen.logits, class_id)
            heat = seen.explain(class_id, region, self._config.method) if region.any() else None
        return Explained(class_id, heat, region)

    def heat_of(self, pixels: Pixels, explained: Explained) -> Float[Tensor, "h2 w2"]:
        """Explain the same class over the same region, whatever the model predicts by now."""
        if self._layer is None:
            raise ValueError("nothing was explained yet")
        with observing(self._opened.segmenter, self._layer, self._opened.see(pixels)) as seen:
            return seen.explain(explained.class_id, explained.region, self._config.method)

    def picture(self, pixels: Pixels, explained: Explained, *, name: str) -> Image.Image:
        """Draw an explanation, with what it is in words."""
        image = current(pixels)
        heat = None if explained.heat is None else explained.heat.cpu().numpy()
        region = explained.region.cpu().numpy()
        return heat_picture(image, heat, region, title=self.title(explained, name), note=self.note(explained))

    def frame(self, pixels: Pixels, explained: Explained, *, name: str) -> Image.Image:
        """Draw an explanation as one of the frames of a clip: all have the same title and as many lines."""
        image = current(pixels)
        label = self._opened.space.names[explained.class_id]
        note = f"`{label}` is predicted nowhere in this frame: nothing to explain"
        heat = None if explained.heat is None else explained.heat.cpu().numpy()
        if heat is not None:
            note = "white outline: the region whose score is explained" if heat.max() > 0 else f"{NOTHING} `{label}`"
        region = explained.region.cpu().numpy()
        return heat_picture(image, heat, region, title=self.what(explained, name), note=note, note_lines=2)

    def title(self, explained: Explained, name: str) -> str:
        """Say what speaks for the class, or that nothing does."""
        if explained.heat is None or explained.heat.max() > 0:
            return self.what(explained, name)
        return f"{name}: {NOTHING} `{self._opened.space.names[explained.class_id]}` ({self._asked})"

    def note(self, explained: Explained) -> str:
        """Say what the outline means, and how fine map and outline are."""
        rows, columns = explained.region.shape
        cells = f"{int(explained.region.sum())} of the {columns * rows} cells of the logits"
        size = "" if explained.heat is None else "; map of {1} x {0} cells".format(*explained.heat.shape)
        return f"white outline: the region whose score is explained, {cells}{size}"

    def what(self, explained: Explained, name: str) -> str:
        """Say what was asked: which class, where, by which method at which layer."""
        label = self._opened.space.names[explained.class_id]
        return f"{name}: what speaks for `{label}` in {self._where} ({self._asked})"

    @property
    def _asked(self) -> str:
        return f"{TITLES[self._config.method]} at {self.layer_name}"

    @property
    def _where(self) -> str:
        region = self._config.region
        if isinstance(region, str):
            return "its predicted pixels" if region == "predicted" else "the whole image"
        return f"the {'pixel' if len(region) == 2 else 'box'} {','.join(map(str, region))}"

    def _largest(self, logits: Float[Tensor, "1 k h w"]) -> int:
        """The class with the most predicted cells; `background` only where there is nothing else."""
        counts = logits[0].argmax(0).flatten().bincount(minlength=logits.shape[1])
        weighed = [
            (name.casefold() != "background", count)
            for name, count in zip(self._opened.space.names, counts.tolist(), strict=True)
        ]
        found = [pair if pair[1] else (False, 0) for pair in weighed]
        return found.index(max(found))
