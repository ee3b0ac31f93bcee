"""Rebuild the embedded demo set from the photograph that scikit-image ships: `python scripts/build_demo_data.py`.

Needs `pip install scikit-image`, which hfseg itself does not. Every crop position is listed here and nothing is drawn
at random, so the pixels come out the same each time. Training crops lie in rows 9 to 221 of the photograph, validation
crops in rows 222 to 301: no pixel is in both.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data, filters, measure, morphology, segmentation

CROP_PX = 80
ENLARGED_PX = 160
NAMES = ("background", "small_coin", "medium_coin", "large_coin")
PALETTE = ((0, 0, 0), (70, 130, 180), (218, 165, 32), (178, 34, 34))
SIZE_BOUNDS_PX = (1550, 2100)
"""Areas, in pixels of the photograph, from which a coin is medium and large."""
TRAIN_CORNERS = (
    (47, 117), (67, 251), (103, 9), (21, 242), (36, 87), (70, 88), (140, 193), (39, 87), (88, 165), (25, 72),
    (9, 115), (79, 99), (29, 147), (142, 288), (9, 185), (127, 32), (31, 202), (114, 183), (28, 290), (128, 128),
    (53, 38), (17, 105), (42, 31), (120, 257), (65, 57), (35, 119), (11, 82), (91, 99), (53, 121), (84, 203),
    (68, 262), (47, 127), (131, 180), (78, 143), (23, 207), (141, 48), (49, 69), (95, 197), (94, 256), (113, 178),
    (36, 304), (93, 98), (42, 201), (127, 0), (138, 43), (127, 23), (130, 98), (62, 222),
)  # fmt: skip
"""Top and left of each training crop: the first three rows of coins."""
VALIDATION_CORNERS = tuple((222, left) for left in (0, 27, 55, 82, 110, 138, 165, 193, 221, 248, 276, 304))
"""Top and left of each validation crop: the last row of coins."""


def coin_labels(photo: np.ndarray) -> np.ndarray:
    """Find the coins by a watershed on the gradient and label each by its area."""
    markers = np.zeros(photo.shape, dtype=np.int32)
    markers[photo < 30] = 1
    markers[photo > 150] = 2
    coins = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(photo), markers) - 1)
    coins = ndimage.binary_opening(coins, morphology.disk(2))
    labels = np.zeros(photo.shape, dtype=np.uint8)
    for region in measure.regionprops(measure.label(coins)):
        label = 1 + sum(region.area >= bound for bound in SIZE_BOUNDS_PX)
        labels[tuple(region.coords.T)] = label
    return labels


def write_split(output_dir: Path, split: str, corners: tuple[tuple[int, int], ...]) -> list[int]:
    """Write the crops of one split and count the pixels of each class."""
    photo = data.coins()
    labels = coin_labels(photo)
    pixels = np.zeros(len(NAMES), dtype=np.int64)
    for kind in ("images", "masks"):
        (output_dir / kind / split).mkdir(parents=True, exist_ok=True)
    for number, (top, left) in enumerate(corners):
        window = slice(top, top + CROP_PX), slice(left, left + CROP_PX)
        size = (ENLARGED_PX, ENLARGED_PX)
        image = Image.fromarray(photo[window]).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        mask = Image.fromarray(labels[window]).resize(size, Image.Resampling.NEAREST)
        mask.putpalette([channel for color in PALETTE for channel in color] + [0] * (768 - 3 * len(PALETTE)))
        image.save(output_dir / "images" / split / f"{split}_{number:02d}.jpg", quality=90)
        mask.save(output_dir / "masks" / split / f"{split}_{number:02d}.png", optimize=True)
        pixels += np.bincount(np.asarray(mask).ravel(), minlength=len(NAMES))
    return [int(count) for count in pixels]


def main() -> None:
    """Write images, masks and `info.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent.parent / "hfseg" / "data" / "assets" / "coins"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    output_dir = parser.parse_args().output
    splits = {"train": TRAIN_CORNERS, "val": VALIDATION_CORNERS}
    pixels = {split: write_split(output_dir, split, corners) for split, corners in splits.items()}
    info = {"names": NAMES, "palette": PALETTE, "pixels": pixels}
    (output_dir / "info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {sum(map(len, splits.values()))} crops to {output_dir}: {pixels}")


if __name__ == "__main__":
    main()
