"""The demo set: crops of one photograph of ancient coins, embedded in the package."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

from hfseg.config import Config
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

COINS_DIR = Path(__file__).parent / "assets" / "coins"
_FOLDERS = {"train": "train", "validation": "val"}


class DemoConfig(Config):
    """48 training and 12 validation crops of 160 x 160 pixels; no pixel is in both."""

    kind: Literal["demo"] = "demo"
    classes: Literal["coin", "size"] = "coin"
    """`coin`: background against coin. `size`: background, small, medium and large coin."""

    def labels(self) -> LabelSpace:
        """Give the classes: four, or two of them merged."""
        sizes = _four_classes()
        return sizes if self.classes == "size" else sizes.merged({"background": ["background"], "coin": ["*"]})

    def open(self, split: Split) -> TableDataset:
        """Open one part.

        Raises:
            DataError: there is no such part.
        """
        if split not in _FOLDERS:
            raise DataError(f"the demo set has no `{split}` part", hint="its parts are train and validation")
        image_paths = sorted((COINS_DIR / "images" / _FOLDERS[split]).iterdir())
        pairs = [(path, COINS_DIR / "masks" / _FOLDERS[split] / f"{path.stem}.png") for path in image_paths]
        return TableDataset(table_of(pairs), self.labels(), name="demo")


@lru_cache
def _four_classes() -> LabelSpace:
    info = json.loads((COINS_DIR / "info.json").read_text(encoding="utf-8"))
    return LabelSpace.from_names(info["names"], palette=info["palette"])
