"""The models that the demo page offers, and what it shows of an image: masks, areas, what speaks for a class."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image

from hfseg.data import read_image
from hfseg.engine.inference import ProtocolConfig, WholeConfig
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter, open_model
from hfseg.recipes.explain.activation import CamConfig, Explainer
from hfseg.recipes.explain.opened import Opened
from hfseg.recipes.pictures import predict_images
from hfseg.recipes.run import RunFolder
from hfseg.viz import areas_html, overlay

KEPT = 2
"""Models that stay in memory."""


@dataclass(frozen=True)
class View:
    """What a model sees in an image."""

    overlay: Image.Image
    areas: str
    """HTML table of the classes' areas."""
    classes: tuple[str, ...]
    """The predicted ones, the largest first, then all others."""


@dataclass(frozen=True)
class DemoModel:
    """An opened model, and how its run shows it images."""

    segmenter: Segmenter
    space: LabelSpace
    protocol: ProtocolConfig

    def look(self, path: Path) -> View:
        """Segment an image file.

        Raises:
            DataError: it cannot be read.
        """
        image = read_image(path)
        pred = predict_images(self.segmenter, [image], protocol=self.protocol)[0]
        return View(overlay(image, pred, self.space, legend=False), areas_html(pred, self.space), self._classes(pred))

    def explain(self, path: Path, label: str, *, region: Literal["predicted", "image"]) -> Image.Image:
        """Draw what speaks for a class in its predicted pixels or in the whole image.

        Raises:
            HfsegError: the image cannot be read, or the model has no layer that can be explained.
        """
        image: UInt8[np.ndarray, "h w 3"] = read_image(path)
        opened = Opened(self.segmenter, self.space, self.protocol, output=Path(), progress=lambda _: None)
        explainer = Explainer(CamConfig(label=label, region=region), opened)
        return explainer.picture(image, explainer.explain(image), name=path.stem)

    def _classes(self, pred: Integer[np.ndarray, "h w"]) -> tuple[str, ...]:
        pixels = np.bincount(pred.ravel(), minlength=self.space.num_labels)[: self.space.num_labels]
        return tuple(self.space.names[index] for index in np.argsort(-pixels, kind="stable"))


class DemoModels:
    """The models below a folder by the names that a person picks them by; the latest ones stay open."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.paths = find_models(folder)
        self._device = device
        self.open = lru_cache(maxsize=KEPT)(self._open)

    def _open(self, name: str) -> DemoModel:
        path = str(self.paths[name])
        run = RunFolder.of_model(path)
        segmenter, space = open_model(path)
        protocol = run.settings().protocol if run else WholeConfig()
        return DemoModel(segmenter.to(self._device).eval(), space, protocol)


def find_models(folder: Path) -> dict[str, Path]:
    """Find the runs below a folder that have a best model, the newest first; or the one run or model that it is.

    Raises:
        DataError: there is none.
    """
    if (folder / "config.json").is_file() or (folder / "best-miou" / "config.json").is_file():
        return {folder.resolve().name: folder}
    found = [path.parents[1] for path in folder.glob("**/best-miou/config.json")]
    if not found:
        missing = "has no run with a `best-miou`" if folder.is_dir() else "does not exist"
        raise DataError(f"folder `{folder}` {missing}", hint="give a folder of runs, or train one: hfseg finetune")
    newest_first = sorted(found, key=lambda run: (run / "best-miou" / "config.json").stat().st_mtime, reverse=True)
    return {str(run.relative_to(folder)): run for run in newest_first}
