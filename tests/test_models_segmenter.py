"""Segmenter, SegFormer, and any other segmentation checkpoint of Transformers."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from transformers import CONFIG_MAPPING, MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING, SegformerModel

from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import CheckpointModelConfig, ModelConfig, SegformerModelConfig, Segmenter, UperNetModelConfig
from hfseg.models.pixels import Pixels
from hfseg.models.segmenter import evaluating
from hfseg.models.sources import quiet

LABELS = LabelSpace.from_names(["road", "car", "sky"])
MIT = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
PLAIN = {
    "num_hidden_layers": 4,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "auxiliary_channels": 8,
}
GENERIC: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"depth_multiplier": 0.25, "output_stride": 16},
    "beit": {**PLAIN, "image_size": 64, "use_relative_position_bias": True, "out_indices": [1, 2, 3, 4]},
    "data2vec-vision": {**PLAIN, "image_size": 64, "out_indices": [1, 2, 3, 4]},
    "dpt": {
        **{key: value for key, value in PLAIN.items() if key != "auxiliary_channels"},
        "image_size": 64,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "is_hybrid": False,
    },
    "mobilevit": {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "num_attention_heads": 2},
    "mobilevitv2": {"width_multiplier": 0.25},
    "segformer": MIT,
}
WITH_AUXILIARY = {"beit", "data2vec-vision", "dpt"}
RECOMPUTING = {"beit", "data2vec-vision", "dpt", "segformer"}
POOLING = {"mobilenet_v2", "mobilevit", "mobilevitv2", "beit", "data2vec-vision"}


def checkpoint(family: str, folder: Path, names: tuple[str, ...] = LABELS.names, **others: Any) -> Any:
    """Write a whole segmentation model as Transformers does."""
    torch.manual_seed(2)
    config = CONFIG_MAPPING[family](**{**GENERIC[family], "id2label": dict(enumerate(names)), **others})
    model = MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING[type(config)](config).eval()
    with quiet():
        model.save_pretrained(folder)
    preprocessor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model


@pytest.mark.many
@pytest.mark.parametrize("family", sorted(GENERIC))
def test_any_segmentation_checkpoint_gives_its_own_logits(family: str, tmp_path: Path):
    reference = checkpoint(family, tmp_path)
    model = CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    assert model.new_parameters == ()
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad(), evaluating(model):
        assert torch.allclose(model(image).logits, reference((image / 255 - 0.5) / 0.25).logits, atol=1e-5)
        assert torch.allclose(model(image).logits, model(image / 255).logits, atol=1e-5)


@pytest.mark.many
@pytest.mark.parametrize("family", sorted(GENERIC))
def test_other_classes_replace_the_classifiers_and_nothing_else(family: str, tmp_path: Path):
    reference = checkpoint(family, tmp_path).state_dict()
    labels = LabelSpace.from_names([f"class {i}" for i in range(11)])
    model = CheckpointModelConfig(checkpoint=str(tmp_path)).build(labels)
    replaced = {name for name, value in model.hf.state_dict().items() if not torch.equal(value, reference[name])}
    assert replaced <= set(model.new_parameters)
    assert any("weight" in name for name in replaced)
    assert len(model.new_parameters) == (4 if family in WITH_AUXILIARY else 2)
    logits, aux_logits = model(torch.rand(2, 3, 64, 64))
    assert logits.shape[1] == 11
    assert (aux_logits is not None) == (family in WITH_AUXILIARY)
    assert aux_logits is None or aux_logits.shape[1] == 11
    assert model.hf.config.id2label[10] == "class 10"
    total = logits.square().mean() + (0 if aux_logits is None else aux_logits.square().mean())
    total.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.many
@pytest.mark.parametrize("family", sorted(GENERIC))
def test_batch_size_one_is_refused_exactly_where_torch_would_fail(family: str, tmp_path: Path):
    checkpoint(family, tmp_path)
    model = CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.minimum_train_batch == (2 if family in POOLING else 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if family in POOLING:
        with pytest.raises(ModelError, match=r"batch size 1 is too small to train `.*`: expected 2 or more"):
            model.check_train_batch(1)
        with pytest.raises(ValueError, match=r"Expected more than 1 value per channel"):
            model(torch.rand(1, 3, 64, 64))
    else:
        model.check_train_batch(1)
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.many
@pytest.mark.parametrize("family", sorted(GENERIC))
def test_recomputing_gives_the_same_gradients_and_runs_blocks_again(family: str, tmp_path: Path):
    checkpoint(family, tmp_path)
    model = CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    if family not in RECOMPUTING:
        with pytest.raises(
            ModelError, match=r"gradient checkpointing: `.*` of Transformers (has none|recomputes batch norms)"
        ):
            model.enable_gradient_checkpointing()
        return
    images = torch.rand(2, 3, 64, 64)
    plain, plain_runs = _gradients_and_runs(model, images)
    model.enable_gradient_checkpointing()
    again, again_runs = _gradients_and_runs(model, images)
    assert again_runs > plain_runs
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def _gradients_and_runs(model: Segmenter, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    runs: list[int] = []
    layers = [m for m in model.hf.base_model.modules() if isinstance(m, torch.nn.Linear)]
    handles = [layer.register_forward_hook(lambda *_: runs.append(1)) for layer in layers]
    model.zero_grad()
    torch.manual_seed(3)
    model(images).logits.square().mean().backward()
    for handle in handles:
        handle.remove()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, len(runs)


def test_sizes_that_a_class_cannot_take_are_refused(tmp_path: Path):
    checkpoint("dpt", tmp_path / "dpt")
    checkpoint("data2vec-vision", tmp_path / "data2vec")
    with pytest.raises(ModelError, match=r"`dpt` takes square images only: got 64 x 96 pixels"):
        CheckpointModelConfig(checkpoint=str(tmp_path / "dpt")).build(LABELS)(torch.rand(1, 3, 64, 96))
    with pytest.raises(ModelError, match=r"takes images of 64 x 64 pixels only: got 96 x 96"):
        CheckpointModelConfig(checkpoint=str(tmp_path / "data2vec")).build(LABELS)(torch.rand(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("classifier", "names", "is_new"),
    [
        ("auto", ["Road", "car", "SKY"], False),
        ("auto", ["car", "road", "sky"], True),
        ("auto", ["a", "b", "c"], True),
        ("keep", ["a", "b", "c"], False),
        ("new", ["road", "car", "sky"], True),
        ("auto", ["road", "car"], True),
        ("auto", ["road"], True),
    ],
)
def test_the_classifier_is_kept_for_the_same_classes_only(
    classifier: str, names: list[str], is_new: bool, tmp_path: Path
):
    checkpoint("segformer", tmp_path)
    labels = LabelSpace.from_names(names)
    model = CheckpointModelConfig.model_validate({"checkpoint": str(tmp_path), "classifier": classifier}).build(labels)
    assert bool(model.new_parameters) == is_new
    assert model.hf.config.num_labels == len(names)
    assert model(torch.rand(2, 3, 64, 64)).logits.shape[1] == len(names)


def test_a_kept_classifier_needs_the_same_number_of_classes(tmp_path: Path):
    checkpoint("segformer", tmp_path)
    with pytest.raises(ModelError, match=r"`model.classifier` is `keep` and .* has 3 classes: the data have 2"):
        CheckpointModelConfig(checkpoint=str(tmp_path), classifier="keep").build(LabelSpace.from_names(["a", "b"]))


def test_missing_and_unknown_parameters_are_named(tmp_path: Path):
    model = checkpoint("segformer", tmp_path)
    weights = model.state_dict()
    lost = weights.pop("decode_head.batch_norm.weight")
    with quiet():
        model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ModelError, match=r"lacks 1 parameters of `SegformerFor.*`: `decode_head.batch_norm.weight`"):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    with quiet():
        model.save_pretrained(
            tmp_path, state_dict={**weights, "decode_head.batch_norm.weight": lost, "neck.weight": lost.clone()}
        )
    with pytest.raises(ModelError, match=r"holds unknown 1 parameters of .*: `neck.weight`"):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)


def test_what_is_no_segmentation_model_is_refused(tmp_path: Path):
    config = CONFIG_MAPPING["convnext"](depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8])
    config.architectures = ["ConvNextForImageClassification"]
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"is a `ConvNextForImageClassification`: expected a semantic segmentation model"
    ):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "own-net", "auto_map": {"AutoModel": "net.Net"}}, r"asks for code of its own \(`auto_map`"),
        ({"model_type": "own-net"}, "is a `own-net` model, which Transformers .* does not know"),
        ({"depths": [1]}, "names no `model_type`"),
        ([1], "must hold keys and values"),
    ],
)
def test_configs_that_cannot_be_used_are_refused(content: Any, message: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)


def test_places_that_hold_no_model_are_refused(tmp_path: Path):
    for name, message in [
        (str(tmp_path), "holds no config.json"),
        (str(tmp_path / "lost"), "does not exist"),
        ("owner/lost", "`owner/lost` is no local folder and not in the Hub's local cache"),
    ]:
        with pytest.raises(ModelError, match=message):
            CheckpointModelConfig(checkpoint=name).build(LABELS)


class _Boom:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("boom"),))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    checkpoint("segformer", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"decode_head.classifier.bias": _Boom()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": _Boom()}, protocol=2))
    with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    assert not (tmp_path / "boom").exists()


def test_a_plain_pickle_of_tensors_is_read(tmp_path: Path):
    model = checkpoint("segformer", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)
    assert all(torch.equal(value, again.hf.state_dict()[name]) for name, value in model.state_dict().items())


def test_half_written_weights_are_refused(tmp_path: Path):
    checkpoint("segformer", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
        CheckpointModelConfig(checkpoint=str(tmp_path)).build(LABELS)


def test_segformer_takes_an_encoder_and_leaves_the_head_new(tmp_path: Path):
    reference = SegformerModel(CONFIG_MAPPING["segformer"](**MIT))
    with quiet():
        reference.save_pretrained(tmp_path)
    model = SegformerModelConfig(backbone=str(tmp_path), drop_path=0.2, dropout=0.3).build(LABELS)
    for name, value in reference.state_dict().items():
        assert torch.equal(value, model.hf.segformer.state_dict()[name])
    assert all(name.startswith("decode_head.") for name in model.new_parameters)
    assert (model.hf.config.drop_path_rate, model.hf.config.classifier_dropout_prob) == (0.2, 0.3)
    logits, aux_logits = model(torch.rand(1, 3, 64, 96))
    assert logits.shape == (1, 3, 16, 24)
    assert aux_logits is None


def test_segformer_refuses_other_encoders():
    with pytest.raises(ModelError, match=r"`swin-base` is of the family `swin`: SegFormer takes its own encoders only"):
        SegformerModelConfig(backbone="swin-base").build(LABELS)


@pytest.mark.parametrize("count", [1, 2, 150])
def test_any_number_of_classes_is_built(count: int):
    labels = LabelSpace.from_names([f"class {i}" for i in range(count)])
    model = SegformerModelConfig(pretrained="none", overrides=MIT).build(labels)
    assert model(torch.rand(1, 3, 64, 64)).logits.shape[1] == count


def test_the_kind_picks_the_model():
    adapter: TypeAdapter[Any] = TypeAdapter(ModelConfig)
    assert isinstance(adapter.validate_python({"kind": "upernet"}), UperNetModelConfig)
    assert isinstance(adapter.validate_python({"kind": "segformer"}), SegformerModelConfig)
    assert isinstance(adapter.validate_python({"kind": "checkpoint", "checkpoint": "a/b"}), CheckpointModelConfig)


@pytest.mark.parametrize(
    ("preprocessor", "expected"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, Pixels((0.5,) * 3, (0.25,) * 3)),
        ({"image_mean": 0.5, "image_std": 0.25}, Pixels((0.5,) * 3, (0.25,) * 3)),
        ({"do_normalize": False}, Pixels((0.0,) * 3, (1.0,) * 3)),
        ({"image_processor_type": "MobileViTImageProcessor"}, Pixels((0.0,) * 3, (1.0,) * 3, bgr=True)),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [63.75] * 3}, Pixels((0.5,) * 3, (0.25,) * 3)),
    ],
)  # fmt: skip
def test_normalization_is_read_from_the_preprocessor(preprocessor: dict[str, Any], expected: Pixels):
    assert Pixels.from_preprocessor(preprocessor) == expected


@pytest.mark.parametrize("wrong", [{"image_std": [0.5, 0, 0.5]}, {"image_std": -1}, {"rescale_factor": 0}])
def test_what_is_divided_by_is_positive(wrong: dict[str, Any]):
    with pytest.raises(ModelError, match=f"`{next(iter(wrong))}` in preprocessor_config.json must be positive: got"):
        Pixels.from_preprocessor({"image_mean": 0.5, "image_std": 0.5, **wrong})


def test_a_bgr_model_gets_blue_first():
    labels = LabelSpace.from_names(["a"])
    hf = SegformerModelConfig(pretrained="none", overrides=MIT).build(labels).hf
    segmenter = Segmenter(hf, Pixels((0.0,) * 3, (1.0,) * 3, bgr=True))
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.allclose(segmenter.normalize(image).flatten() * 255, torch.tensor([30.0, 20.0, 10.0]))
