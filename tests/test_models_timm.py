"""Encoders of timm: errors where it cannot be had, everywhere; models, where it can."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import run_alone
from test_models_backbones import LABELS, randomize
from transformers import AutoModelForSemanticSegmentation

from hfseg.errors import ModelError
from hfseg.models import FusionModelConfig, Segmenter, UperNetModelConfig, anatomy, freeze, open_model, save_model
from hfseg.models.backbones.neck import PyramidBackbone
from hfseg.models.sources import quiet


def has_timm() -> bool:
    """Whether timm can be imported, which takes a torchvision that fits torch."""
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


needs_timm = pytest.mark.skipif(not has_timm(), reason="timm cannot be imported")


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


REFUSED = """
import json
from hfseg.models.backbones import plan
from hfseg.errors import ModelError
try:
    plan('timm:resnet18', 'none', overrides={})
except ModelError as error:
    print(json.dumps(str(error)))
"""
FAILURES = [
    "RuntimeError('operator torchvision::nms does not exist')",
    "ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')",
    "ImportError('libcudart.so.13: cannot open shared object file')",
]
NO_TIMM = "ModuleNotFoundError(\"No module named 'timm'\", name='timm')"


def finding(folder: Path, timm: str, code: str) -> str:
    """Code that finds a timm of our own first."""
    folder.mkdir()
    package(folder, "timm", timm)
    return f"import sys\nsys.path.insert(0, {str(folder)!r})\n{code}"


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of `timm:resnet18` in processes that find a timm which fails in one way or another."""
    folder, failures = tmp_path_factory.mktemp("timm"), [*FAILURES, NO_TIMM]
    codes = [finding(folder / str(place), f"raise {each}", REFUSED) for place, each in enumerate(failures)]
    return dict(zip(failures, map(json.loads, run_alone(*codes).splitlines()), strict=True))


@pytest.mark.slow
def test_without_timm_the_install_line_is_given(refusals: dict[str, str]):
    message = "encoders of timm need the package timm, which is not installed\n\nhint: pip install 'hfseg[timm]'"
    assert refusals[NO_TIMM] == message


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_a_torchvision_that_is_missing_or_broken_is_named(failure: str, refusals: dict[str, str]):
    said = refusals[failure]  # timm imports torchvision, which fails so
    assert said.startswith("timm needs torchvision, which cannot be imported: ")
    assert failure.split("(")[1].split(")")[0].split(", name")[0][1:-1] in said
    assert f"install the build of torchvision that belongs to torch {torch.__version__}" in said


@pytest.mark.slow
@pytest.mark.skipif(has_timm(), reason="Transformers imports timm itself where torchvision works")
def test_importing_the_models_does_not_import_timm(tmp_path: Path):
    run_alone(finding(tmp_path / "timm", "raise AssertionError('imported')", "import hfseg.models"))


def tiny(name: str, **others: Any) -> Segmenter:
    options = {"backbone": f"timm:{name}", "pretrained": "none", "hidden_size": 16, "auxiliary_channels": 8}
    return UperNetModelConfig(**{**options, **others}).build(LABELS)


@needs_timm
@pytest.mark.parametrize(
    "name",
    ["resnet10t", "convnext_atto", "mambaout_femto", "swin_tiny_patch4_window7_224", "efficientnet_b0",
     "vit_tiny_patch16_224", "eva02_tiny_patch14_224"],
)  # fmt: skip
def test_a_model_of_timm_trains_at_any_size_and_opens_again(name: str, tmp_path: Path):
    model = tiny(name)
    assert isinstance(model.hf.backbone, PyramidBackbone) == ("patch1" in name)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    logits, aux_logits = model(images)
    assert (logits.shape, aux_logits.shape) == ((2, 3, 16, 24), (2, 3, 4, 6))
    (logits.square().mean() + aux_logits.square().mean()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert model(torch.rand(2, 3, 70, 102)).logits.shape[:2] == (2, 3)
    randomize(model.hf)
    model.eval()
    save_model(model, LABELS, tmp_path / "model")
    again, _ = open_model(tmp_path / "model")
    with quiet():
        plain = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        expected = model(images).logits
        assert torch.allclose(again(images).logits, expected, rtol=1e-4)
        assert torch.isfinite(plain(model.normalize(images)).logits).all()


@needs_timm
def test_channels_come_first_also_where_timm_has_them_last():
    backbone = tiny("mambaout_femto").eval().hf.backbone
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        given, maps = backbone.model(image), backbone(image).feature_maps
    assert all(torch.equal(one.permute(0, 3, 1, 2), other) for one, other in zip(given, maps, strict=True))


@needs_timm
def test_pixels_are_taken_as_timm_says():
    assert tiny("vit_tiny_patch16_224").pixels.mean == (0.5, 0.5, 0.5)
    assert tiny("resnet10t").pixels.mean == (0.485, 0.456, 0.406)


@needs_timm
@pytest.mark.parametrize("name", ["resnet10t", "mambaout_femto", "vit_tiny_patch16_224"])
def test_a_file_of_timm_fills_the_encoder(name: str, tmp_path: Path):
    import timm

    stored = timm.create_model(name)
    randomize(stored)
    torch.save({"state_dict": stored.state_dict()}, tmp_path / "file.pth")
    model = tiny(name, pretrained=str(tmp_path / "file.pth"))
    assert not {each for each in model.new_parameters if "neck" not in each and each.startswith("backbone.")}
    values = {tensor.numpy().tobytes() for tensor in stored.state_dict().values()}
    encoder = model.hf.get_submodule(anatomy.encoder_name(model.hf))
    assert all(p.detach().numpy().tobytes() in values for p in encoder.parameters())


@needs_timm
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path):
    import timm

    state = timm.create_model("resnet10t").state_dict()
    state["strange"] = state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"lacks 1 parameters of encoder `timm:resnet10t`: `model.layer1.0.conv1"):
        tiny("resnet10t", pretrained=str(tmp_path / "file.pth"))
    with pytest.raises(ModelError, match=r"cannot be read from `owner/name`: expected a weights file"):
        tiny("resnet10t", pretrained="owner/name")


@needs_timm
def test_arguments_of_the_model_are_overrides():
    model = tiny("convnext_atto", overrides={"depths": [1, 1, 1, 1]}, drop_path=0.2)
    assert model.hf.config.backbone_config.model_args == {"depths": [1, 1, 1, 1], "drop_path_rate": 0.2}
    assert sum(p.numel() for p in model.hf.backbone.parameters()) < sum(
        p.numel() for p in tiny("convnext_atto").hf.backbone.parameters()
    )
    with pytest.raises(ModelError, match=r"`depth` is not an argument of timm's `convnext_atto`\n\nhint: .*depths"):
        tiny("convnext_atto", overrides={"depth": 1})


@needs_timm
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10x", r"has no model `resnet10x`\n\nhint: did you mean `timm:resnet10t`"),
        ("maxvit_tiny_tf_224", r"cannot take images of 64 x 96 pixels, though it takes 224 x 224: "),
        ("levit_128s", r"gives 3 maps: expected 4 or more"),
        ("sequencer2d_s", r"expected b c h w|expected 4, 8, 16, 32"),
    ],
)
def test_models_that_cannot_be_used_are_refused_with_the_reason(name: str, message: str):
    with pytest.raises(ModelError, match=message):
        tiny(name)


@needs_timm
def test_weights_that_cannot_be_fetched_are_no_random_start():
    with pytest.raises(ModelError, match=r"weights of `timm:resnet10t.c3_in1k` cannot be fetched: .*\n\nhint: .*none"):
        tiny("resnet10t.c3_in1k", pretrained=None)


@needs_timm
@pytest.mark.parametrize(
    ("name", "stages", "stem"),
    [
        ("resnet10t", [f"model.layer{index}" for index in (1, 2, 3, 4)], "model.conv1"),
        ("convnext_atto", [f"model.stages_{index}" for index in range(4)], "model.stem_0"),
        ("vit_tiny_patch16_224", [f"encoder.model.model.blocks.{index}" for index in range(12)],
         "encoder.model.model.patch_embed"),
    ],
)  # fmt: skip
def test_stages_of_timm_are_its_numbered_modules(name: str, stages: list[str], stem: str):
    model = tiny(name)
    assert anatomy.stages(model.hf) == tuple(f"backbone.{stage}" for stage in stages)
    assert f"backbone.{stem}" in anatomy.stem(model.hf)
    freeze(model, ["backbone.stages.0-2"])
    free = {name for name, p in model.hf.named_parameters() if p.requires_grad}
    assert not [name for name in free if name.startswith((f"backbone.{stages[2]}.", f"backbone.{stem}."))]
    assert [name for name in free if name.startswith(f"backbone.{stages[3]}.")]


@needs_timm
def test_fusion_takes_models_of_timm_and_freezing_reaches_them():
    model = FusionModelConfig(backbone="timm:resnet10t", pretrained="none", hidden_size=32).build(LABELS)
    freeze(model, ["backbone"])
    assert {name.split(".")[0] for name, p in model.hf.named_parameters() if p.requires_grad} == {"decode_head"}
