"""Effective receptive fields of models and encoders, side by side; called by `hfseg explain`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from hfseg.config import Config
from hfseg.engine.checkpoint import write_file
from hfseg.explain import find_layer, receptive_field
from hfseg.labels import LabelSpace
from hfseg.models import SegformerModelConfig, Segmenter, UperNetModelConfig, anatomy
from hfseg.recipes.explain.opened import Line, layer_name, list_pictures
from hfseg.viz import Field, receptive_figure, write_png

STAGES = 4
"""Stages that are shown where none are named."""
SHARES = (0.5, 0.95)


class ReceptiveFieldConfig(Config):
    """Which layers are looked at, and on which images."""

    kind: Literal["receptive_field"] = "receptive_field"
    """Picks this explanation."""
    layers: tuple[str, ...] | None = None
    """Stages or modules, as for class activation; where not given the stages, of more than four four of them."""
    backbones: tuple[str, ...] = ()
    """Encoders with random weights that stand beside the model, or in its place."""
    against: tuple[str, ...] = ()
    """More models that stand beside it: run folders, model folders, Hub ids."""
    size: PositiveInt = 256
    """Side, in pixels, of the squares that are cut from the middle of the images after their shorter side was brought
    to it."""
    noise_images: PositiveInt = 4
    """Images of noise that are averaged over where no images are given."""
    seed: NonNegativeInt = 0
    """Seed of random weights and of noise."""


def random_encoder(backbone: str, *, seed: int) -> Segmenter:
    """Build an encoder with random weights, below some decoder: nothing of that is computed here."""
    torch.manual_seed(seed)
    space = LabelSpace.from_names(("background", "object"))
    if backbone.startswith("mit-") or "/mit-" in backbone:
        return SegformerModelConfig(backbone=backbone, pretrained="none").build(space).eval()
    return UperNetModelConfig(backbone=backbone, pretrained="none", hidden_size=32).build(space).eval()


def run_receptive_field(
    config: ReceptiveFieldConfig,
    models: Sequence[tuple[str, Segmenter]],
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    output: Path,
) -> list[Path]:
    """Draw the receptive fields of models, given with their names, averaged over images, or over noise without any.

    Writes `receptive-field-MODELS.png` and `.json`.

    Raises:
        ModelError: a layer is unknown, or has no map.
    """
    inputs = [_square(image, config.size) for image in images] or _noise(config)
    what = f"{len(inputs)} images{'' if images else ' of noise'} of {config.size} x {config.size} px"
    fields = [
        [_field(name, segmenter, layer, inputs) for layer in _layers(segmenter, config)] for name, segmenter in models
    ]
    title = f"{_finding(fields)} ({what})"
    stem = "-".join(["receptive-field", *dict.fromkeys(Path(name).name for name, _ in models)])
    output.mkdir(parents=True, exist_ok=True)
    picture, numbers = output / f"{stem}.png", output / f"{stem}.json"
    write_png(receptive_figure(fields, title=title), picture)
    write_file(numbers, json.dumps({"images": what, "fields": [_facts(f) for row in fields for f in row]}, indent=2))
    caption = (
        "gradient of the middle of each layer's map, its channels added with random signs, with respect to the pixels: "
        "its absolute value, summed over colours, averaged over images; squares hold 50 % and 95 % of it"
    )
    list_pictures(output, [Line(picture.name, "receptive_field", title, caption)])
    return [picture, numbers]


def _field(name: str, segmenter: Segmenter, layer: str, inputs: list[Float[Tensor, "1 3 h w"]]) -> Field:
    full = f"hf.{layer_name(segmenter.hf, layer)}"
    images = [image.to(segmenter.mean.device) for image in inputs]
    found = receptive_field(segmenter, find_layer(segmenter, full, images[0]), images)
    half, most = (found.radius(share) for share in SHARES)
    return Field(Path(name).name, layer, found.influence.numpy(), found.centre, half, most)


def _layers(segmenter: Segmenter, config: ReceptiveFieldConfig) -> tuple[str, ...]:
    if config.layers is not None:
        return config.layers
    count = len(anatomy.stages(segmenter.hf))
    chosen = np.linspace(1, count, min(STAGES, count)).round().astype(int)
    return tuple(f"stage{number}" for number in chosen)


def _square(image: UInt8[np.ndarray, "h w 3"], size: int) -> Float[Tensor, "1 3 h2 w2"]:
    cut = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(cut.copy()).permute(2, 0, 1)[None] / 255


def _noise(config: ReceptiveFieldConfig) -> list[Float[Tensor, "1 3 h w"]]:
    generator = torch.Generator().manual_seed(config.seed)
    return [torch.rand(1, 3, config.size, config.size, generator=generator) for _ in range(config.noise_images)]


def _finding(fields: list[list[Field]]) -> str:
    """Name what sees how far, at the layer at which the models differ most."""
    columns = list(zip(*fields, strict=False))
    column = max(columns, key=lambda of_layer: _spread([field.radius_95_px for field in of_layer]))
    told = sorted(column, key=lambda field: -field.radius_95_px)
    where = ", ".join(f"±{field.radius_95_px:.0f} px in {field.model}" for field in told)
    return f"At {column[0].layer}, 95 % of the influence lies within {where}"


def _spread(radii: list[float]) -> float:
    return max(radii) / min(radii)


def _facts(field: Field) -> dict[str, str | float]:
    radii = {"radius_50_px": field.radius_50_px, "radius_95_px": field.radius_95_px}
    return {"model": field.model, "layer": field.layer, **radii}
