"""The demo set: crops of one photograph of ancient coins, embedded in the package."""

import json
from functools import lru_cache
from typing import Literal

from hfseg.data.merging import merged
from hfseg.data.official import ASSETS_DIR
from hfseg.data.settings import DatasetSettings
from hfseg.data.table import Split, TableDataset, table_of
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

COINS_DIR = ASSETS_DIR / "coins"
_FOLDERS = {"train": "train", "validation": "val"}
_TWO_CLASSES = {"background": ["background"], "coin": ["*"]}


class DemoConfig(DatasetSettings):
    """48 training and 12 validation crops of 160 x 160 pixels; no pixel is in both."""

    kind: Literal["demo"] = "demo"
    classes: Literal["coin", "size"] = "coin"
    """`coin`: background against coin. `size`: background, small, medium and large coin."""

    def labels(self) -> LabelSpace:
        """Give the four classes, or two of them, or what they are merged into."""
        return merged(merged(_four_classes(), None if self.classes == "size" else _TWO_CLASSES), self.merge)

    def open(self, split: Split) -> TableDataset:
        """Open one part.

        Raises:
            DataError: there is no such part.
        """
        if split not in _FOLDERS:
            raise DataError(f"the demo set has no `{split}` part", hint="its parts are train and validation")
        image_paths = sorted((COINS_DIR / "images" / _FOLDERS[split]).iterdir())
        pairs = [(path, COINS_DIR / "masks" / _FOLDERS[split] / f"{path.stem}.png") for path in image_paths]
        return TableDataset(table_of(pairs), self.labels(), name="demo", rare_class_crop=self.rare_class_crop)


@lru_cache
def _four_classes() -> LabelSpace:
    info = json.loads((COINS_DIR / "info.json").read_text(encoding="utf-8"))
    return LabelSpace.from_names(info["names"], palette=info["palette"])
