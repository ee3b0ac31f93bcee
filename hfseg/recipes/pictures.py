"""Pictures of what a model predicts: index mask, overlay, and image beside prediction, labels and error."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, UInt8

from hfseg.data import StreamDataset, TableDataset, model_input, pick_samples
from hfseg.engine.inference import ProtocolConfig
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter
from hfseg.viz import overlay, save_index_mask, side_by_side


def draw_samples(
    segmenter: Segmenter, dataset: TableDataset | StreamDataset, protocol: ProtocolConfig, folder: Path, *, count: int
) -> None:
    """Predict `count` images of a data set and draw each into `folder`."""
    for sample in pick_samples(dataset, count):
        pred = predict_images(segmenter, [sample.pixels], protocol=protocol)[0]
        draw(sample.image, pred, sample.labels, dataset.labels, folder / Path(sample.id).name)


def predict_images(
    segmenter: Segmenter, images: list[UInt8[np.ndarray, "*t h w 3"]], *, protocol: ProtocolConfig
) -> list[Integer[np.ndarray, "h w"]]:
    """Predict the classes of images, or of the last frames of clips, of one size, each at its own size."""
    device = next(segmenter.parameters()).device
    segmenter.eval()
    inputs = np.stack([model_input(image, short_side=protocol.loader_short_side) for image in images])
    pixel_values = torch.from_numpy(inputs).movedim(-1, -3).to(device)
    height, width, _ = images[0].shape[-3:]
    return list(protocol.predict(segmenter, pixel_values, (height, width)).cpu().numpy())


def draw(
    image: UInt8[np.ndarray, "h w 3"],
    pred: Integer[np.ndarray, "h w"],
    labels: Integer[np.ndarray, "h w"] | None,
    space: LabelSpace,
    stem: Path,
) -> list[Path]:
    """Write `STEM.png` (palette index mask), `STEM-overlay.jpg` and `STEM-side.jpg`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    mask, over, side = (stem.with_name(stem.name + ending) for ending in (".png", "-overlay.jpg", "-side.jpg"))
    save_index_mask(pred, space, mask)
    overlay(image, pred, space).save(over, quality=92)
    side_by_side(image, pred, labels, space).save(side, quality=92)
    return [mask, over, side]
