"""The packaged recipes: each builds, has the published size, and reads data that lie as it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, UperNetConfig, UperNetForSemanticSegmentation

from hfseg.labels import LabelSpace
from hfseg.models import FusionModelConfig, SegformerModelConfig, TmanetModelConfig
from hfseg.models.backbones import neighborhood
from hfseg.models.backbones.dilations import auto_dilations
from hfseg.models.backbones.plan import plan
from hfseg.models.fusion import FusionConfig, FusionForSemanticSegmentation
from hfseg.models.labelling import write_labels
from hfseg.models.sources import quiet
from hfseg.models.tmanet import TmanetForSemanticSegmentation
from hfseg.models.upernet import AUXILIARY_CHANNELS
from hfseg.recipes.run import FinetuneConfig

FOLDER = Path(__file__).parents[1] / "hfseg" / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith("-study"))
CLASSES = {"ade20k": 150, "cityscapes": 19, "camvid": 12, "leaf": 2, "demo": 2}
PUBLISHED_MILLIONS = {
    "upernet-nat-mini": 50, "upernet-nat-tiny": 58, "upernet-nat-small": 82, "upernet-nat-base": 123,
    "upernet-dinat-mini": 50, "upernet-dinat-tiny": 58, "upernet-dinat-small": 82, "upernet-dinat-base": 123,
    "upernet-dinat-large": 238, "upernet-swin-tiny": 60,
    "segformer-b0": 3.8, "segformer-b1": 13.7, "segformer-b2": 27.5, "segformer-b3": 47.3, "segformer-b4": 64.1,
    "segformer-b5": 84.7,
}  # fmt: skip


def read(name: str) -> FinetuneConfig:
    return FinetuneConfig.load(yaml_path=FOLDER / f"{name}.yaml")


def labels_of(config: FinetuneConfig) -> LabelSpace:
    named = getattr(config.data, "classes", None)
    if isinstance(named, int):
        return LabelSpace.from_names([f"class {number}" for number in range(named)])
    return LabelSpace.from_names(named) if isinstance(named, tuple) else config.data.labels()


def on_meta(config: FinetuneConfig) -> torch.nn.Module:
    """The Hugging Face model of a recipe, without numbers: of its config's shapes alone."""
    model, labels = config.model, labels_of(config)
    planned = plan(model.backbone, "none", overrides=model.overrides, drop_path=model.drop_path).config
    named = {"id2label": labels.id2label, "label2id": {name: index for index, name in labels.id2label.items()}}
    with torch.device("meta"), quiet():
        if isinstance(model, SegformerModelConfig):
            write_labels(planned, labels)
            return SegformerForSemanticSegmentation(planned)
        if isinstance(model, TmanetModelConfig):
            return TmanetForSemanticSegmentation(model.described(planned, labels))
        crop = config.augment.crop
        neighborhood.configure(planned, dilations=model.dilations, position_table=model.position_table, crop=crop)
        sizes = {"backbone_config": planned, "hidden_size": model.hidden_size, **named}
        if isinstance(model, FusionModelConfig):
            return FusionForSemanticSegmentation(FusionConfig(num_convs=model.num_convs, **sizes))
        return UperNetForSemanticSegmentation(UperNetConfig(auxiliary_channels=AUXILIARY_CHANNELS, **sizes))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_with_its_classes_and_the_published_size(name):
    config = read(name)
    model = on_meta(config)
    built, _, data = name.rpartition("-")
    assert model.decode_head.classifier.out_channels == CLASSES[data]
    millions = PUBLISHED_MILLIONS.get(built)
    if millions is not None and data == "ade20k":
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        unit = 0.1 if isinstance(millions, float) else 1.0
        assert abs(count - millions) <= max(0.01 * millions, unit / 2), count


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_a_recipe_fits_a_screen_and_says_what_it_should_reach(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    if name != "fastervit-leaf":
        assert "Not reproduced here." in head or "No score is published for this size." in head
        assert "Source: " in head
        assert "https://" in head


@pytest.mark.parametrize("name", [name for name in NAMES if "-dinat-" in name])
def test_the_published_dilations_are_those_chosen_from_the_crop(name):
    config = read(name)
    depths = [len(level) for level in config.model.dilations]
    assert config.model.dilations == auto_dilations(depths, kernel_size=7, crop=config.augment.crop)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-ade20k")])
def test_recipes_on_ade20k_run_the_published_length_and_batch(name):
    config = read(name)
    assert (config.train.steps, config.loader.batch_size, config.optim.warmup_steps) == (160_000, 16, 1500)
    assert config.optim.schedule == "poly"
    assert config.optim.lr_at(1500, 160_000) == config.optim.lr
    assert config.augment.short_side == config.augment.crop[0]


def test_the_leaf_recipe_drops_its_rate_after_epochs_25_and_30():
    optim, per_epoch = read("fastervit-leaf").optim, 100
    rates = [optim.lr_at(epoch * per_epoch, 50 * per_epoch) for epoch in (0, 24, 25, 29, 30, 49)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    assert type(optim.build(torch.nn.Linear(2, 2))) is torch.optim.Adam


def draw(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def test_cityscapes_is_read_as_it_is_unpacked(tmp_path):
    for part, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        draw(tmp_path / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", np.zeros((8, 16, 3)))
        draw(tmp_path / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png", np.tile([7, 33, 0, 11], (8, 4)))
    config = FinetuneConfig.load(
        yaml_path=FOLDER / "segformer-b0-cityscapes.yaml", flags={"data.data_dir": str(tmp_path)}
    )
    train, validation = config.data.open("train"), config.data.open("validation")
    assert (len(train), len(validation), train.labels.num_labels) == (2, 1, 19)
    assert train.labels.names[-1] == "bicycle"
    assert list(np.unique(train[0].labels)) == [0, 2, 18, 255]


def test_leaves_are_read_as_the_recipe_lays_them_out(tmp_path):
    for part in ("train", "valid"):
        draw(tmp_path / f"{part}_images" / "a.jpg", np.zeros((8, 16, 3)))
        draw(tmp_path / f"{part}_masks" / "a.png", np.tile([0, 255], (8, 8)))
    config = FinetuneConfig.load(yaml_path=FOLDER / "fastervit-leaf.yaml", flags={"data.data_dir": str(tmp_path)})
    train = config.data.open("train")
    assert train.labels.names == ("background", "disease")
    assert list(np.unique(train[0].labels)) == [0, 1]
    assert len(config.data.open("validation")) == 1
