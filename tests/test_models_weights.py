"""Weights files: what is read out of them, how it fits, and what a whole segmentation model's file gives besides."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_models_backbones import CONV, LABELS, TINY, published_folder, randomize, tiny
from test_models_dinat import published
from test_models_segmenter import MIT, checkpoint
from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation

from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import FusionModelConfig, SegformerModelConfig, UperNetModelConfig
from hfseg.models.backbones.families import traits_of
from hfseg.models.backbones.fastervit import FasterVitBackbone, FasterVitConfig
from hfseg.models.backbones.weights import WeightsFile, find, load_weights, read, split, take_heads
from hfseg.models.sources import quiet

STATE = {"stem.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Surprise:
    """Whatever unpickles this runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "best": torch.tensor(0.5)},
        {"model": STATE, "model_ema": {"other": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)},
        {"meta": {"CLASSES": ["road"]}, "state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {"state_dict": {"model": STATE}},
    ],
)
def test_tensors_are_found_wherever_a_training_checkpoint_keeps_them(suffix: str, content: Any, tmp_path: Path):
    torch.save(content, tmp_path / f"file{suffix}")
    assert same(read(tmp_path / f"file{suffix}"), STATE)


def test_safetensors_are_read(tmp_path: Path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert same(read(tmp_path / "model.safetensors"), STATE)


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors"])
def test_nothing_in_a_file_is_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Surprise()}, protocol=2))
    with pytest.raises(ModelError, match=r"cannot be read as weights: .*\n\nhint: only tensors are read"):
        read(tmp_path / name)
    torch.save({"state_dict": STATE, "hook": Surprise()}, tmp_path / name)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "no file of PyTorch's, or one that holds more"),
        (b"hello world", "KeyError 101"),
        (b"PK\x03\x04" + bytes(300), "PytorchStreamReader failed"),
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes, told: str, tmp_path: Path):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ModelError, match=f"file.pth` cannot be read as weights: {told}"):
        read(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("pytorch_model.bin", b"hello world", "KeyError 101"),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(300), "PytorchStreamReader failed"),
        ("model.safetensors.index.json", b"{}", "KeyError 'weight_map'"),
        ("model.safetensors.index.json", b"{", "Expecting property name"),
    ],
)
def test_a_damaged_file_in_a_model_folder_is_refused(name: str, content: bytes, told: str, tmp_path: Path):
    folder = tmp_path / "model"
    published_folder("convnextv2", folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"model` cannot be opened as a `ConvNextV2Backbone`: {told}"):
        UperNetModelConfig(backbone=str(folder)).build(LABELS)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [({"hidden_act": "none"}, "KeyError 'none'"), ({"hidden_sizes": [8, 16]}, "list index out of range")],
)
def test_overrides_that_cannot_be_are_refused_wherever_weights_come_from(
    overrides: dict[str, Any], told: str, tmp_path: Path
):
    folder = tmp_path / "model"
    published_folder("convnextv2", folder)
    for pretrained in (None, "none", str(folder / "model.safetensors")):
        with pytest.raises(ModelError, match=rf"cannot be (built|opened as a `ConvNextV2Backbone`): {told}"):
            UperNetModelConfig(backbone=str(folder), pretrained=pretrained, overrides=overrides).build(LABELS)


@pytest.mark.parametrize(
    ("content", "got"),
    [({"epoch": 1, "lr": 0.1}, "`epoch`, `lr`"), ([1, 2], "list"), ({"state_dict": {}}, "`state_dict`")],
)
def test_a_file_without_weights_is_refused(content: Any, got: str, tmp_path: Path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=rf"holds no weights: expected tensors by name, got {got}$"):
        read(tmp_path / "file.pth")


def test_a_file_of_another_kind_is_refused_and_a_folder_is_none(tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(
        ModelError, match=r"model.onnx` is no weights file: expected a name that ends in .safetensors, "
    ):
        find(str(tmp_path / "model.onnx"))
    assert find(str(tmp_path)) is None
    assert find("owner/name") is None


def test_a_whole_segmentation_model_is_divided_into_encoder_and_heads():
    state = {"backbone.norm0.weight": 1, "decode_head.conv_seg.bias": 2, "auxiliary_head.convs.0.bn.weight": 3}
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    encoder, heads = split(tensors)
    assert same(encoder, {"norm0.weight": torch.tensor(1)})
    assert same(
        heads,
        {"decode_head.classifier.bias": torch.tensor(2), "auxiliary_head.convs.0.batch_norm.weight": torch.tensor(3)},
    )
    assert split({"norm.weight": torch.tensor(1)}) == ({"norm.weight": torch.tensor(1)}, {})


@pytest.mark.many
@pytest.mark.parametrize("family", ["convnext", "resnet", "dinov2", "pvt_v2", "bit", "swin"])
def test_the_file_of_a_classifier_fills_the_encoder(family: str, tmp_path: Path):
    published_folder(family, tmp_path)
    from_folder = tiny(family, pretrained=str(tmp_path), overrides={}).build(LABELS)
    from_file = tiny(family, pretrained=str(tmp_path / "model.safetensors")).build(LABELS)
    assert from_file.new_parameters == from_folder.new_parameters
    given = {name for name, _ in from_file.hf.named_parameters()} - set(from_file.new_parameters)
    assert given
    folder_state = from_folder.hf.state_dict()
    assert all(torch.equal(from_file.hf.state_dict()[name], folder_state[name]) for name in given)


def classifier_file(folder: Path, change: Any) -> Path:
    """A file of a tiny ConvNeXt classifier, changed."""
    state = dict(published_folder("convnext", folder).state_dict())
    change(state)
    torch.save({"model": state}, folder / "file.pth")
    return folder / "file.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("convnext.embeddings.layernorm.bias"),
         r"lacks 1 parameters of encoder `convnext`: `embeddings.layernorm.bias`\n"),
        (lambda state: state.update({"convnext.encoder.strange": torch.zeros(1), "more.weight": torch.zeros(1)}),
         r"holds 2 parameters that encoder `convnext` does not have: `convnext.encoder.strange`, `more.weight`\n"),
        (lambda state: state.update({"convnext.embeddings.layernorm.bias": torch.zeros(9)}),
         r"do not fit encoder `convnext`: `embeddings.layernorm.bias` is \[9\] in the file and \[8\] in the model"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_name(change: Any, message: str, tmp_path: Path):
    with pytest.raises(ModelError, match=message):
        tiny("convnext", pretrained=str(classifier_file(tmp_path, change))).build(LABELS)


DINAT = {**TINY["dinat"], "layer_scale_init_value": 0.1}


def whole_model(path: Path, labels: LabelSpace = LABELS, **others: Any) -> Mapping[str, Tensor]:
    """Write the file of a whole UPerNet over DiNAT as mmseg names it; give its weights as they are named here."""
    model = tiny("dinat", overrides=DINAT, **others).build(labels)
    randomize(model.hf)
    state = model.hf.state_dict()
    encoder = published(model.hf.backbone, segmentation=True)
    heads = {
        name.replace(".classifier.", ".conv_seg.").replace(".batch_norm.", ".bn."): value
        for name, value in state.items()
        if not name.startswith("backbone.")
    }
    content = {**{f"backbone.{name}": value for name, value in encoder.items()}, **heads}
    torch.save({"meta": {"CLASSES": labels.names}, "state_dict": content}, path)
    return state


@pytest.mark.slow
def test_a_whole_published_segmentation_model_is_taken_over_with_its_heads(tmp_path: Path):
    state = whole_model(tmp_path / "upernet.pth")
    model = tiny("dinat", overrides=DINAT, pretrained=str(tmp_path / "upernet.pth")).build(LABELS)
    assert model.new_parameters == ()
    assert same(model.hf.state_dict(), state)


@pytest.mark.slow
def test_classifiers_of_other_classes_are_new_and_the_heads_are_taken(tmp_path: Path):
    state = whole_model(tmp_path / "upernet.pth", LabelSpace.from_names(["a", "b", "c", "d"]))
    model = tiny("dinat", overrides=DINAT, pretrained=str(tmp_path / "upernet.pth")).build(LABELS)
    assert set(model.new_parameters) == {
        f"{head}.classifier.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")
    }
    taken = model.hf.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in taken.items() if ".classifier." not in name)


@pytest.mark.slow
def test_heads_of_another_width_or_kind_are_all_new(tmp_path: Path):
    whole_model(tmp_path / "upernet.pth")
    wider = tiny("dinat", overrides=DINAT, pretrained=str(tmp_path / "upernet.pth"), hidden_size=24).build(LABELS)
    assert {name.split(".")[0] for name in wider.new_parameters} == {"decode_head"}
    assert {name for name, _ in wider.hf.named_parameters() if name.startswith("decode_head.")} == set(
        wider.new_parameters
    )
    fusion = FusionModelConfig(
        backbone="dinat", pretrained=str(tmp_path / "upernet.pth"), overrides=DINAT, hidden_size=32
    ).build(LABELS)
    assert {name.split(".")[0] for name in fusion.new_parameters} == {"decode_head"}


def test_heads_are_taken_whole_or_not_at_all():
    model = nn.ModuleDict({"decode_head": nn.ModuleDict({"convs": nn.Linear(2, 2), "classifier": nn.Linear(2, 3)})})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert take_heads(model, {"decode_head.convs.weight": torch.ones(2, 2)}) == ()
    assert same(model.state_dict(), before)
    given = {"decode_head.convs.weight": torch.ones(2, 2), "decode_head.convs.bias": torch.ones(2)}
    assert take_heads(model, {**given, "decode_head.classifier.bias": torch.ones(9)}) == tuple(given)
    assert torch.equal(model.state_dict()["decode_head.convs.bias"], torch.ones(2))


def test_a_published_fastervit_fits(tmp_path: Path):
    config = FasterVitConfig(
        stem_channels=8, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[2, 2], out_features=["stage1"]
    )
    model = FasterVitBackbone(config)
    randomize(model)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    head = {"module.norm.weight": torch.ones(64), "module.head.weight": torch.ones(1000, 64)}
    torch.save({"state_dict": {**state, **head}, "args": argparse.Namespace()}, tmp_path / "fastervit.pth.tar")
    file = WeightsFile(tmp_path / "fastervit.pth.tar")
    loaded, heads = load_weights(FasterVitBackbone, file, config=config, traits=traits_of("fastervit"))
    assert (loaded.missing, loaded.unexpected, loaded.mismatched, heads) == ((), (), (), {})
    assert same(loaded.model.state_dict(), model.state_dict())


def test_a_segformer_takes_the_file_of_a_segformer(tmp_path: Path):
    stored = checkpoint("segformer", tmp_path).state_dict()
    model = SegformerModelConfig(pretrained=str(tmp_path / "model.safetensors"), overrides=MIT).build(LABELS)
    assert isinstance(model.hf, SegformerForSemanticSegmentation)
    assert all(torch.equal(value, stored[name]) for name, value in model.hf.state_dict().items() if "segformer" in name)
    assert all(name.startswith("decode_head.") for name in model.new_parameters)


@pytest.mark.slow
def test_the_folder_of_a_mobilenet_segmentation_model_fills_the_encoder(tmp_path: Path):
    stored = checkpoint("mobilenet_v2", tmp_path).state_dict()
    for settings in ({"backbone": "mobilenet-v2", "pretrained": str(tmp_path)}, {"backbone": str(tmp_path)}):
        model = UperNetModelConfig(**settings, hidden_size=16, auxiliary_channels=8).build(LABELS)
        assert not {name for name in model.new_parameters if name.startswith("backbone.")}
        encoder = model.hf.backbone.state_dict()
        assert all(torch.equal(value, stored[f"mobilenet_v2.{name}"]) for name, value in encoder.items())
        assert model.hf.config.backbone_config.output_stride == 32


def test_a_file_needs_an_encoder_whose_config_is_known(tmp_path: Path):
    path = classifier_file(tmp_path, lambda _: None)
    with pytest.raises(ModelError, match=r"file.pth` is a file: expected a model folder"):
        UperNetModelConfig(backbone=str(path)).build(LABELS)


def test_the_config_of_a_folder_serves_a_file(tmp_path: Path):
    published_folder("convnext", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "encoder.safetensors")
    with quiet():
        model = tiny(
            "convnext", backbone=str(tmp_path), pretrained=str(tmp_path / "encoder.safetensors"), overrides={}
        ).build(LABELS)
    assert model.hf.backbone.channels == CONV["hidden_sizes"]
    assert all("hidden_states_norms" in name for name in model.new_parameters if name.startswith("backbone."))
