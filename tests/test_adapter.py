"""LoRA: what is trained, that merged models equal what was trained, and that adapters find their model again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stepping import train as take_steps
from test_check import config_of, folder_of
from test_models_backbones import tiny
from test_models_segmenter import LABELS, MIT
from torch import nn

from hfseg.errors import ConfigError, ModelError
from hfseg.models import (
    CheckpointModelConfig,
    SegformerModelConfig,
    Segmenter,
    anatomy,
    freeze,
    open_model,
    parameter_table,
    save_model,
    unfreeze,
)
from hfseg.models.adapter import AdapterConfig, adapt, is_adapter, merged
from hfseg.models.adapter_folder import FACTS, WEIGHTS
from hfseg.recipes import finetune
from hfseg.viz import parameter_summary

pytestmark = pytest.mark.slow

pytest.importorskip("peft")
LORA = AdapterConfig(kind="lora", rank=2)
FAMILIES = ["segformer", "swin", "convnext", "nat", "dinat", "fastervit", "dinov2"]


def build(family: str) -> Segmenter:
    torch.manual_seed(0)
    if family == "segformer":
        return SegformerModelConfig(pretrained="none", overrides=MIT).build(LABELS)
    return tiny(family).build(LABELS)


def train(model: Segmenter, steps: int = 2) -> None:
    take_steps(model, steps)


def said(model: Segmenter) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)).logits


def stem_and_stages(model: Segmenter) -> tuple[str, ...]:
    return tuple(f"{name}." for name in (*anatomy.stem(model.hf), *anatomy.stages(model.hf)))


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_add_nothing_at_first_then_they_and_the_heads_alone_move(family):
    model = build(family)
    before = said(model)
    adapt(model, LORA)
    torch.testing.assert_close(said(model), before, rtol=1e-6, atol=1e-7)
    state = {name: value.clone() for name, value in model.hf.state_dict().items()}
    train(model)
    moved = {name for name, value in model.hf.state_dict().items() if not torch.equal(value, state[name])}
    encoder = {name for name in moved if name.startswith(stem_and_stages(model))}
    assert encoder == {name for name in state if is_adapter(name)}
    assert {name.split(".")[0] for name in moved} & set(anatomy.head_names(model.hf))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_says_what_the_trained_one_said(family, tmp_path):
    model = build(family)
    adapt(model, LORA)
    plain = said(model)
    train(model)
    trained = said(model)
    assert (trained - plain).abs().max() > 1e-3
    save_model(model, LABELS, tmp_path / "model")
    opened, _ = open_model(tmp_path / "model")
    torch.testing.assert_close(said(opened), trained, rtol=0, atol=1e-5)
    torch.testing.assert_close(said(model), trained, rtol=0, atol=0)
    assert opened.hf.state_dict().keys() == build(family).hf.state_dict().keys()


@pytest.mark.slow
def test_a_merged_model_needs_neither_this_package_nor_peft(tmp_path):
    model = build("segformer")
    adapt(model, LORA)
    train(model)
    save_model(model, LABELS, tmp_path / "model")
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from transformers import AutoModelForSemanticSegmentation\n"
        f"_, info = AutoModelForSemanticSegmentation.from_pretrained({str(tmp_path / 'model')!r}, "
        "output_loading_info=True)\n"
        "assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "assert 'hfseg' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PATH": ""})


def test_what_is_merged_is_the_product_of_the_matrices():
    up, down, weight = torch.randn(5, 2), torch.randn(2, 3), torch.randn(5, 3)
    state = {"a.base_layer.weight": weight, "a.lora_A.default.weight": down, "a.lora_B.default.weight": up}
    found = merged({**state, "a.base_layer.bias": up[:, 0], "b.weight": down}, scale=1.5)
    assert found.keys() == {"a.weight", "a.bias", "b.weight"}
    torch.testing.assert_close(found["a.weight"], weight + 1.5 * up @ down)


def base_of(family: str, folder: Path) -> CheckpointModelConfig:
    """A folder of a whole model, as one that somebody has published."""
    save_model(build(family), LABELS, folder)
    return CheckpointModelConfig(checkpoint=str(folder))


@pytest.mark.parametrize("family", ["segformer", "convnext", "fastervit"])
def test_adapters_alone_are_small_and_find_their_model(family, tmp_path):
    base = base_of(family, tmp_path / "base")
    model = base.build(LABELS)
    adapt(model, LORA.model_copy(update={"save": "adapters"}))
    train(model)
    trained = said(model)
    save_model(model, LABELS, tmp_path / "adapters", base=base)
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {
        *("config.json", "preprocessor_config.json"),
        *(FACTS, WEIGHTS),
    }
    opened, labels = open_model(tmp_path / "adapters")
    assert labels.names == LABELS.names
    torch.testing.assert_close(said(opened), trained, rtol=0, atol=1e-5)
    again = CheckpointModelConfig(checkpoint=str(tmp_path / "adapters")).build(LABELS)
    torch.testing.assert_close(said(again), trained, rtol=0, atol=1e-5)


def test_adapters_refuse_a_model_that_has_changed_and_files_that_are_damaged(tmp_path):
    base = base_of("convnext", tmp_path / "base")
    model = base.build(LABELS)
    adapt(model, LORA)
    save_model(model, LABELS, tmp_path / "adapters", base=base)
    other = build("convnext")
    with torch.no_grad():
        other.hf.get_parameter("backbone.embeddings.patch_embeddings.weight")[0] += 1
    save_model(other, LABELS, tmp_path / "base")
    with pytest.raises(ModelError, match="belong to other weights"):
        open_model(tmp_path / "adapters")
    facts = json.loads((tmp_path / "adapters" / FACTS).read_text())
    (tmp_path / "adapters" / FACTS).write_text(json.dumps({**facts, "base": {"kind": "nothing"}}))
    with pytest.raises(ModelError, match="cannot be read.*nothing"):
        open_model(tmp_path / "adapters")


def test_adapters_of_random_weights_cannot_be_saved_alone():
    with pytest.raises(ModelError, match="of the encoder's weights are random"):
        adapt(build("swin"), AdapterConfig(kind="lora", save="adapters"))
    with pytest.raises(ValueError, match="the model has none"):
        save_model(build("swin"), LABELS, "nowhere", base=CheckpointModelConfig(checkpoint="a"))


@pytest.mark.parametrize(
    ("family", "target", "message"),
    [("convnext", "attention", "no linear layers in attention"), ("resnet", "linear", "has no linear layers")],
)
def test_an_encoder_without_such_layers_is_refused(family, target, message):
    with pytest.raises(ModelError, match=message):
        adapt(build(family), AdapterConfig(kind="lora", target=target))


@pytest.mark.parametrize("family", ["segformer", "swin", "nat", "fastervit", "dinov2"])
def test_attention_alone_leaves_the_other_layers_be(family):
    model = build(family)
    linear = {name for name, module in model.hf.named_modules() if type(module) is nn.Linear}
    adapt(model, AdapterConfig(kind="lora", target="attention"))
    taken = {name.partition(".lora_")[0] for name, _ in model.hf.named_parameters() if is_adapter(name)}
    assert taken <= linear
    assert taken
    assert all("att" in name for name in taken)
    assert any("mlp" in name or "intermediate" in name for name in linear - taken)


def test_batch_norms_beside_adapters_keep_their_statistics_whatever_is_frozen_and_set_free():
    model = build("fastervit")
    adapt(model, LORA)
    norms = {name: value.clone() for name, value in model.hf.state_dict().items() if "running_mean" in name}
    inside = [name for name in norms if name.startswith(stem_and_stages(model))]
    freeze(model, ["auxiliary_head"])
    train(model)
    unfreeze(model)
    train(model)
    after = model.hf.state_dict()
    assert inside
    assert all(torch.equal(after[name], norms[name]) for name in inside)
    assert not any(torch.equal(after[name], norms[name]) for name in norms if name.startswith("decode_head"))
    free = {name for name, parameter in model.hf.named_parameters() if parameter.requires_grad}
    assert not {name for name in free if name.startswith(stem_and_stages(model)) and not is_adapter(name)}


def test_the_table_of_parameters_counts_the_matrices():
    model = build("segformer")
    before = sum(row["total"] for row in parameter_table(model))
    adapt(model, LORA)
    rows = parameter_table(model)
    matrices = sum(value.numel() for name, value in model.hf.named_parameters() if is_adapter(name))
    assert sum(row["total"] for row in rows) == before + matrices
    stages = [row for row in rows if str(row["module"]) in anatomy.stages(model.hf)]
    assert sum(row["trainable"] for row in stages) == matrices
    assert "parameters are trained (" in parameter_summary(rows)


def test_new_parameters_follow_their_layers():
    model = build("convnext")
    adapt(model, LORA)
    names = dict(model.hf.named_parameters())
    assert set(model.new_parameters) <= names.keys()
    assert {name for name in names if is_adapter(name)} <= set(model.new_parameters)


def test_settings_of_no_adapter_are_refused():
    with pytest.raises(ValueError, match="`rank` has no effect without an adapter: got 4"):
        AdapterConfig(rank=4)


def test_adapters_that_are_frozen_for_the_whole_run_are_refused(tmp_path):
    settings = {"adapter.kind": "lora", "freeze.modules": ["backbone"], "train.steps": 1}
    config = config_of(folder_of(tmp_path / "data"), **settings, output=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="`freeze.modules` freezes its matrices too: got lora and backbone"):
        finetune.run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_with_adapters_leaves_plain_models_and_goes_on_as_if_it_had_not_stopped(tmp_path):
    settings = {"adapter.kind": "lora", "train.steps": 4, "train.eval_every": 2, "samples": 1}
    config = config_of(folder_of(tmp_path / "data"), **settings, output=str(tmp_path / "run"))
    finetune.run(config)
    whole = said(open_model(tmp_path / "run" / "last")[0])
    shutil.rmtree(tmp_path / "run/checkpoints/step-000004")
    finetune.run(config, resume=True)
    assert torch.equal(said(open_model(tmp_path / "run" / "last")[0]), whole)
