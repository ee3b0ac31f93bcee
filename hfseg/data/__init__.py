"""Data sets, augmentation and loading.

A new data set is one file with a config class that has `labels()` and `open(split)`, and one more name in `DataConfig`.
"""

from typing import Annotated

from pydantic import Field

from hfseg.data.ade20k import Ade20kConfig, Ade20kFourConfig
from hfseg.data.augment import AugmentConfig
from hfseg.data.camvid import CamvidConfig
from hfseg.data.cityscapes import CityscapesConfig
from hfseg.data.coco_stuff import CocoStuffConfig
from hfseg.data.corruptions import CORRUPTIONS, SEVERITIES, Corruption, CorruptionName
from hfseg.data.demo import DemoConfig
from hfseg.data.folder import FolderConfig, SplitFiles
from hfseg.data.frames import FramesConfig
from hfseg.data.hub import HubConfig
from hfseg.data.loader import EvalLoader, EvalLoaderConfig, LoaderConfig, Skips, TrainLoader, eval_loader, train_loader
from hfseg.data.official import official_labels
from hfseg.data.photometric import Photometric
from hfseg.data.reader import Change
from hfseg.data.settings import ClipSettings
from hfseg.data.shard_table import ShardTable, check_checksums
from hfseg.data.shards import ShardsConfig
from hfseg.data.single import model_input, pick_samples, read_image, read_mask
from hfseg.data.stream import StreamDataset
from hfseg.data.table import Dataset, Split, TableDataset
from hfseg.data.verify import Verification, verify
from hfseg.data.voc import VocConfig

DataConfig = Annotated[
    DemoConfig
    | FolderConfig
    | FramesConfig
    | HubConfig
    | ShardsConfig
    | Ade20kConfig
    | Ade20kFourConfig
    | CamvidConfig
    | CityscapesConfig
    | CocoStuffConfig
    | VocConfig,
    Field(discriminator="kind"),
]
"""Every data set that can be asked for, by `kind`."""

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Ade20kConfig",
    "Ade20kFourConfig",
    "AugmentConfig",
    "CamvidConfig",
    "Change",
    "CityscapesConfig",
    "ClipSettings",
    "CocoStuffConfig",
    "Corruption",
    "CorruptionName",
    "DataConfig",
    "Dataset",
    "DemoConfig",
    "EvalLoader",
    "EvalLoaderConfig",
    "FolderConfig",
    "FramesConfig",
    "HubConfig",
    "LoaderConfig",
    "Photometric",
    "ShardTable",
    "ShardsConfig",
    "Skips",
    "Split",
    "SplitFiles",
    "StreamDataset",
    "TableDataset",
    "TrainLoader",
    "Verification",
    "VocConfig",
    "check_checksums",
    "eval_loader",
    "model_input",
    "official_labels",
    "pick_samples",
    "read_image",
    "read_mask",
    "train_loader",
    "verify",
]
