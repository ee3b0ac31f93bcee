"""Model folders: plain Transformers opens what is written here, in a process that never saw this package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_models_segmenter import MIT, checkpoint

from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import (
    CheckpointModelConfig,
    SegformerModelConfig,
    Segmenter,
    UperNetModelConfig,
    open_model,
    save_model,
)
from hfseg.models.pixels import Pixels
from hfseg.models.segmenter import evaluating

LABELS = LabelSpace.from_names(["road", "car", "sky"], palette=[(1, 2, 3), (250, 0, 9), (0, 0, 0)])
SIZE = (64, 96)

STRANGER = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

folder, image_path = sys.argv[1:]
image = Image.open(image_path)
model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
inputs = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
parts = pipeline("image-segmentation", model=folder)(image)
assert all(part["mask"].size == image.size for part in parts), parts
assert not [name for name in sys.modules if name.split(".")[0] in ("hfseg", "torchvision")]
torch.save({"logits": logits, "names": sorted(part["label"] for part in parts)}, folder + "/out.pt")
"""


def _upernet() -> Segmenter:
    overrides = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    return UperNetModelConfig(
        backbone="convnextv2", pretrained="none", overrides=overrides, hidden_size=16, auxiliary_channels=8
    ).build(LABELS)


def _segformer() -> Segmenter:
    return SegformerModelConfig(pretrained="none", overrides=MIT).build(LABELS)


def _blue_first() -> Segmenter:
    return Segmenter(_segformer().hf, Pixels((0.0,) * 3, (1.0,) * 3, bgr=True))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("build", [_upernet, _segformer, _blue_first])
def test_plain_transformers_gives_the_same_logits_and_runs_the_pipeline(build: Any, photo: Path, tmp_path: Path):
    torch.manual_seed(0)
    segmenter = build()
    folder = tmp_path / "model"
    save_model(segmenter, LABELS, folder)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(photo)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.load(folder / "out.pt", weights_only=True)
    pixels = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None]
    with torch.no_grad(), evaluating(segmenter):
        ours = segmenter(pixels).logits
    if theirs["logits"].shape != ours.shape:  # UPerNet upsamples inside itself
        ours = torch.nn.functional.interpolate(ours, size=SIZE, mode="bilinear", align_corners=False)
    assert (theirs["logits"] - ours).abs().max() <= 1e-5
    assert set(theirs["names"]) <= set(LABELS.names)


def test_a_folder_holds_names_colours_and_normalization(tmp_path: Path):
    segmenter = _segformer()
    save_model(segmenter, LABELS, tmp_path / "model", size=(128, 96))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["id2label"] == {"0": "road", "1": "car", "2": "sky"}
    assert config["palette"] == [[1, 2, 3], [250, 0, 9], [0, 0, 0]]
    preprocessor = json.loads((tmp_path / "model/preprocessor_config.json").read_text())
    assert preprocessor["image_mean"] == [0.485, 0.456, 0.406]
    assert preprocessor["size"] == {"height": 128, "width": 96}
    assert preprocessor["do_reduce_labels"] is False
    again, labels = open_model(tmp_path / "model")
    assert labels == LABELS
    assert again.pixels == segmenter.pixels
    assert not again.training


def test_the_ignored_value_travels_with_the_model(tmp_path: Path):
    labels = LabelSpace.from_names([f"class {i}" for i in range(300)], ignore_index=65535)
    save_model(SegformerModelConfig(pretrained="none", overrides=MIT).build(labels), labels, tmp_path / "model")
    assert open_model(tmp_path / "model")[1].ignore_index == 65535


def test_saving_again_replaces_the_folder_whole(tmp_path: Path):
    folder = tmp_path / "model"
    save_model(_segformer(), LABELS, folder)
    (folder / "stale.txt").write_text("old")
    second = _segformer()
    save_model(second, LABELS, folder)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again, _ = open_model(folder)
    assert all(torch.equal(value, again.hf.state_dict()[name]) for name, value in second.hf.state_dict().items())


def test_a_run_folder_stands_for_its_best_model(tmp_path: Path):
    segmenter = _segformer()
    save_model(segmenter, LABELS, tmp_path / "best-miou")
    again, labels = open_model(tmp_path)
    assert labels == LABELS
    tuned = CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    for model in (again, tuned):
        assert all(torch.equal(v, model.hf.state_dict()[name]) for name, v in segmenter.hf.state_dict().items())


def test_a_model_in_the_hubs_cache_opens_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cached = tmp_path / "models--owner--tiny"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    reference = checkpoint("segformer", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    segmenter, labels = open_model("owner/tiny")
    assert labels.names == ("road", "car", "sky")
    assert all(torch.equal(v, segmenter.hf.state_dict()[name]) for name, v in reference.state_dict().items())
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"run `hf download owner/tiny`: it goes to"):
        open_model("owner/tiny")


def test_a_model_of_others_opens_with_the_usual_colours(tmp_path: Path):
    checkpoint("mobilenet_v2", tmp_path)
    segmenter, labels = open_model(tmp_path)
    assert labels == LabelSpace.from_names(["road", "car", "sky"])
    assert segmenter.pixels == Pixels((0.5,) * 3, (0.25,) * 3)


def test_a_model_without_normalization_is_refused(tmp_path: Path):
    checkpoint("segformer", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no preprocessor_config.json: its mean and deviation are not known"):
        open_model(tmp_path)


def test_labels_of_another_number_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model has 3 classes: the label space has 1"):
        save_model(_segformer(), LabelSpace.from_names(["a"]), tmp_path / "model")


def test_building_saving_and_opening_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    save_model(_upernet(), LABELS, tmp_path / "model")
    CheckpointModelConfig(checkpoint=str(tmp_path / "model")).build(LabelSpace.from_names(["a", "b"]))
    assert capfd.readouterr() == ("", "")
