"""The fusion head: its arithmetic, its contract over several families, and folders that plain Transformers opens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_models_backbones import TINY, randomize
from torch.nn import functional as F

from hfseg.config import Config
from hfseg.errors import ConfigError
from hfseg.labels import LabelSpace
from hfseg.models import (
    CheckpointModelConfig,
    FreezeConfig,
    FusionModelConfig,
    ModelConfig,
    Segmenter,
    freeze,
    open_model,
    parameter_table,
    save_model,
)
from hfseg.models.fusion import FusionConfig, FusionForSemanticSegmentation
from hfseg.models.segmenter import evaluating

pytestmark = pytest.mark.slow

LABELS = LabelSpace.from_names(["road", "car", "sky"], palette=[(1, 2, 3), (250, 0, 9), (0, 0, 0)])
FAMILIES = ["convnextv2", "swin", "resnet", "pvt_v2"]
SIZE = (64, 96)

STRANGER = """
import sys
import hfseg
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers")]
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
torch.save({"logits": logits, "names": sorted(part["label"] for part in parts)}, folder + "/out.pt")
"""


def tiny(family: str = "convnextv2", **others: Any) -> FusionModelConfig:
    options = {"backbone": family, "pretrained": "none", "overrides": TINY[family], "hidden_size": 32}
    return FusionModelConfig(**{**options, **others})


def images(count: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_logits_are_the_classified_convolutions_of_the_resized_projections():
    hf = tiny(num_convs=3).build(LABELS).hf.eval()
    randomize(hf)
    head = hf.decode_head
    pixel_values = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        parts = [
            F.interpolate(
                torch.einsum("bchw,kc->bkhw", each, projection.weight[..., 0, 0]) + projection.bias[:, None, None],
                scale_factor=2**level,
                mode="bilinear",
            )
            for level, (each, projection) in enumerate(
                zip(hf.backbone(pixel_values).feature_maps, head.projections, strict=True)
            )
        ]
        hidden = torch.cat(parts, dim=1)
        for conv, norm, _ in head.convolutions:
            hidden = F.conv2d(hidden, conv.weight, padding=1)
            grouped = hidden.reshape(2, 32, -1)
            scale = (grouped.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
            hidden = ((grouped - grouped.mean(-1, keepdim=True)) / scale).reshape(hidden.shape)
            hidden = (hidden * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
        expected = F.conv2d(hidden, head.classifier.weight, head.classifier.bias)
        logits = hf(pixel_values).logits
    assert logits.shape == (2, 3, SIZE[0] // 4, SIZE[1] // 4)
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_image_trains_every_parameter(family: str):
    torch.manual_seed(0)
    model = tiny(family).build(LABELS)
    assert model.minimum_train_batch == 1
    logits, aux_logits = model(images(1))
    assert logits.shape == (1, 3, SIZE[0] // 4, SIZE[1] // 4)
    assert aux_logits is None
    logits.square().mean().backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_opens_equal(family: str, tmp_path: Path):
    model = tiny(family, num_convs=1, dropout=0.3).build(LABELS)
    randomize(model.hf)
    model.eval()
    save_model(model, LABELS, tmp_path / "model")
    again, labels = open_model(tmp_path / "model")
    before, after = model.hf.state_dict(), again.hf.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert labels == LABELS
    assert again.hf.decode_head.dropout.p == 0.3
    assert type(again.hf.config.backbone_config) is type(model.hf.config.backbone_config)
    assert torch.equal(model(images(1)).logits, again(images(1)).logits)


@pytest.mark.slow
def test_plain_transformers_gives_the_same_logits_and_runs_the_pipeline(tmp_path: Path):
    photo, folder = tmp_path / "photo.png", tmp_path / "model"
    pixels = images(1)
    Image.fromarray(np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())).save(photo)
    segmenter = tiny().build(LABELS)
    save_model(segmenter, LABELS, folder)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder), str(photo)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.load(folder / "out.pt", weights_only=True)
    with torch.no_grad(), evaluating(segmenter):
        ours = segmenter(pixels).logits
    assert (theirs["logits"] - ours).abs().max() <= 1e-5
    assert set(theirs["names"]) <= set(LABELS.names)
    assert "not supported" not in done.stderr


def test_loss_is_the_cross_entropy_of_the_resized_logits_without_ignored_pixels():
    hf = tiny().build(LABELS).hf.eval()
    pixel_values, labels = torch.randn(2, 3, *SIZE), torch.randint(0, 3, (2, *SIZE))
    labels[:, :20] = 255
    output = hf(pixel_values, labels=labels)
    scores = F.interpolate(output.logits, SIZE, mode="bilinear").double().log_softmax(1)
    kept = labels != 255
    chosen = scores.gather(1, labels.where(kept, 0)[:, None])[:, 0][kept]
    assert output.loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-6)
    assert torch.equal(hf(pixel_values, labels=labels, return_dict=False)[0], output.loss)
    assert hf(pixel_values).loss is None


def test_the_loss_of_a_single_class_is_refused():
    hf = tiny().build(LabelSpace.from_names(["coin"])).hf
    with pytest.raises(ValueError, match="cross entropy of a single class is always 0"):
        hf(torch.randn(1, 3, *SIZE), labels=torch.zeros(1, *SIZE, dtype=torch.int64))


def test_hidden_states_and_attentions_are_the_encoders():
    hf = tiny("swin").build(LABELS).hf.eval()
    hf.set_attn_implementation("eager")
    output = hf(torch.randn(1, 3, *SIZE), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 5
    assert len(output.attentions) == 4


def test_parameters_that_no_checkpoint_gave_are_named(tmp_path: Path):
    model = tiny().build(LABELS)
    assert set(model.new_parameters) == {name for name, _ in model.hf.named_parameters()}
    save_model(model, LABELS, tmp_path / "model")
    four = LabelSpace.from_names(["road", "car", "sky", "tree"])
    tuned = CheckpointModelConfig(checkpoint=str(tmp_path / "model")).build(four)
    assert set(tuned.new_parameters) == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert tuned(images()).logits.shape[1] == 4


@pytest.mark.parametrize(
    ("pattern", "trained"),
    [
        ("backbone", {"decode_head"}),
        ("head", {"backbone"}),
        ("all-but:decode_head.classifier", {"decode_head.classifier"}),
        ("all-but:classifier", {"decode_head.classifier"}),
    ],
)
def test_freeze_patterns_find_the_parts(pattern: str, trained: set[str]):
    model = tiny().build(LABELS)
    freeze(model, FreezeConfig(modules=pattern).modules)
    free = {name for name, p in model.hf.named_parameters() if p.requires_grad}
    assert free
    assert all(any(name.startswith(f"{part}.") for part in trained) for name in free)
    rows = {str(row["module"]) for row in parameter_table(model)}
    assert "decode_head" in rows


def test_gradient_checkpointing_is_the_encoders():
    hf = tiny("swin").build(LABELS).hf
    hf.activation_checkpointing_enable()
    assert hf.backbone.is_activation_checkpointing
    with pytest.raises(ValueError, match="does not support"):
        tiny("convnextv2").build(LABELS).hf.activation_checkpointing_enable()


def test_recomputing_leaves_the_gradients_as_they_are():
    torch.manual_seed(0)
    model: Segmenter = tiny("swin", dropout=0.0, drop_path=0.0).build(LABELS)
    gradients = []
    for enable in (False, True):
        if enable:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(images()).logits.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_a_config_of_its_own_is_complete():
    config = FusionConfig()
    with torch.device("meta"):
        assert FusionForSemanticSegmentation(config).decode_head.classifier.out_channels == 2
    assert FusionConfig(**json.loads(config.to_json_string())).to_dict() == config.to_dict()


def test_building_prints_nothing(capfd: pytest.CaptureFixture[str]):
    tiny().build(LABELS)
    assert capfd.readouterr() == ("", "")


class Holder(Config):
    model: ModelConfig


def test_the_kind_picks_it_and_widths_that_cannot_be_grouped_are_refused():
    assert type(Holder.load(sets=["model.kind=fusion"]).model) is FusionModelConfig
    with pytest.raises(ConfigError, match=r"`model.hidden_size`.* must be a multiple of 32: got 100") as caught:
        Holder.load(sets=["model.kind=fusion", "model.hidden_size=100"])
    assert "hint: use 96" in str(caught.value)
