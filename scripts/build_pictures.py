"""Draw the pictures of docs/augmentation.md from the embedded photograph: `python scripts/build_pictures.py`.

The photograph is grey; here it is tinted by its labels, so that changes of colour can be seen.
"""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from hfseg.data import AugmentConfig, DemoConfig, Photometric, TableDataset
from hfseg.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from hfseg.data.reader import TrainReader
from hfseg.data.sampling import Key
from hfseg.values import Batch, Sample

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
TILE_PX, CORRUPTED_PX, GAP_PX, QUALITY = 160, 120, 3, 76
EPOCHS, SEED = 4, 3
SHOWN_SAMPLE = 23
"""The one crop of the photograph that holds every class."""
TINTS = np.array([(0.62, 0.72, 0.85), (0.95, 0.80, 0.55), (0.95, 0.70, 0.62), (0.75, 0.95, 0.66)])
"""Colour of each class, as factors of grey."""
PAINT = np.full((256, 3), 200, np.uint8)
PAINT[:4] = (40, 44, 52), (70, 130, 180), (218, 165, 32), (178, 34, 34)
"""Colour in which labels are painted; ignored ones are light grey."""
PLAIN = {"crop_size": TILE_PX, "scale": (1.0, 1.0), "max_class_share": 1.0, "flip": 0.0, "photometric": False}
COLORS = {"photometric": True, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
SHOWN = {
    "scale": {"scale": (0.5, 2.0)},
    "max_class_share": {"scale": (2.0, 2.0), "max_class_share": 0.8},
    "rotate": {"rotate": 30.0},
    "flip": {"flip": 0.5},
    "vertical_flip": {"vertical_flip": 0.5},
    "brightness": {**COLORS, "brightness": 0.3},
    "contrast": {**COLORS, "contrast": 0.5},
    "saturation": {**COLORS, "saturation": 0.9},
    "hue": {**COLORS, "hue": 90.0},
    "blur": {"blur": 1.0},
    "noise": {"noise": 1.0, "noise_std": 0.15},
    "erase": {"erase": 1.0, "erase_area": (0.02, 0.3)},
    "copy_paste": {"copy_paste": 1.0, "scale": (0.8, 1.2)},
    "rare_class_crop": {"scale": (2.0, 2.0)},
}
"""A name -> the settings that its picture shows, stronger than by default where the default is hard to see."""


def tinted(samples: list[Sample], **options: bool) -> TableDataset:
    """Make a data set of the photograph in colour."""
    undecoded = datasets.Image(decode=False)
    features = datasets.Features(image=undecoded, label=undecoded, id=datasets.Value("string"))
    rows = [{"image": png(tint(each)), "label": png(each.labels), "id": each.id} for each in samples]
    table = datasets.Dataset.from_list(rows, features=features)
    return TableDataset(table, DemoConfig(classes="size").labels(), name="demo", **options)


def tint(sample: Sample) -> np.ndarray:
    """Multiply the grey photograph by the colours of its classes."""
    return (sample.image * TINTS[sample.labels]).round().astype(np.uint8)


def png(array: np.ndarray) -> dict[str, bytes | None]:
    """Give an array as a data set holds its files."""
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}


def epochs(dataset: TableDataset, settings: dict[str, object], count: int) -> Batch:
    """Give the shown sample as it becomes in the first `count` epochs."""
    augment = AugmentConfig(**{**PLAIN, **settings})
    batch = TrainReader(dataset, augment, SEED)[[Key(epoch, SHOWN_SAMPLE) for epoch in range(count)]]
    assert isinstance(batch, Batch)
    return Photometric(augment)(batch)


def tiles(batch: Batch) -> list[list[np.ndarray]]:
    """Give images, and below them painted labels."""
    pixels = (batch.pixel_values * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [list(pixels), list(PAINT[batch.labels.numpy()])]


def sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    """Lay rows of tiles on white, the first of each a little apart."""
    side = len(rows[0][0])
    step = side + GAP_PX
    whole = Image.new("RGB", (step * len(rows[0]) + 2 * GAP_PX, step * len(rows) - GAP_PX), (255, 255, 255))
    for row, line in enumerate(rows):
        for column, tile in enumerate(line):
            whole.paste(Image.fromarray(tile), (column * step + (3 * GAP_PX if column else 0), row * step))
    return whole


def main() -> None:
    """Write a picture for each augmentation, images over labels, and one for each corruption, by severity."""
    PICTURES.mkdir(exist_ok=True)
    demo = DemoConfig(classes="size").open("train")
    samples = [demo[index] for index in range(len(demo))]
    before = tiles(epochs(tinted(samples), {}, 1))
    for name, settings in SHOWN.items():
        dataset = tinted(samples, rare_class_crop=name == "rare_class_crop")
        after = tiles(epochs(dataset, settings, EPOCHS))
        _save(sheet([one + more for one, more in zip(before, after, strict=True)]), f"augment-{name}")
    photo = tint(demo[2])[:CORRUPTED_PX, :CORRUPTED_PX]
    for name in CORRUPTIONS:
        _save(sheet([[photo, *(Corruption(name, each)(photo, "photo") for each in SEVERITIES)]]), f"corruption-{name}")
    total = sum(path.stat().st_size for path in PICTURES.glob("*.jpg"))
    print(f"wrote {len(SHOWN) + len(CORRUPTIONS)} pictures to {PICTURES}: {total / 1e6:.2f} MB together")


def _save(picture: Image.Image, name: str) -> None:
    picture.save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
