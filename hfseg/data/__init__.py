"""Data sets, augmentation and loading.

A new data set is one file with a config class that has `labels()` and `open(split)`, and one more name in `DataConfig`.
"""

from typing import Annotated

from pydantic import Field

from hfseg.data.ade20k import Ade20kConfig
from hfseg.data.augment import AugmentConfig
from hfseg.data.demo import DemoConfig
from hfseg.data.folder import FolderConfig, SplitFiles
from hfseg.data.hub import HubConfig
from hfseg.data.loader import EvalLoader, LoaderConfig, TrainLoader, eval_loader, train_loader
from hfseg.data.photometric import Photometric
from hfseg.data.single import model_input, pick_samples, read_image, read_mask
from hfseg.data.stream import StreamDataset
from hfseg.data.table import Dataset, Split, TableDataset
from hfseg.data.verify import Verification, verify

DataConfig = Annotated[DemoConfig | Ade20kConfig | FolderConfig | HubConfig, Field(discriminator="kind")]
"""Every data set that can be asked for, by `kind`."""

__all__ = [
    "Ade20kConfig",
    "AugmentConfig",
    "DataConfig",
    "Dataset",
    "DemoConfig",
    "EvalLoader",
    "FolderConfig",
    "HubConfig",
    "LoaderConfig",
    "Photometric",
    "Split",
    "SplitFiles",
    "StreamDataset",
    "TableDataset",
    "TrainLoader",
    "Verification",
    "eval_loader",
    "model_input",
    "pick_samples",
    "read_image",
    "read_mask",
    "train_loader",
    "verify",
]
