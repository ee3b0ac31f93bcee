"""Freezing: bits of frozen parameters and statistics stay, the rest moves."""

from pathlib import Path

import pytest
import torch
from stepping import train as take_steps
from test_models_backbones import TINY, tiny
from test_models_segmenter import LABELS, MIT, checkpoint

from hfseg.errors import ModelError
from hfseg.models import (
    CheckpointModelConfig,
    FreezeConfig,
    SegformerModelConfig,
    Segmenter,
    anatomy,
    freeze,
    parameter_table,
    unfreeze,
)
from hfseg.models.backbones import FAMILIES

FAMILIES_HERE = [*sorted(TINY), "segformer", "mobilenet_v2", "dpt"]
QUICK = {"convnext", "swin", "segformer", "mobilenet_v2"}
EVERY = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow, id=family) for family in FAMILIES_HERE]


def build(family: str, folder: Path) -> Segmenter:
    if family in TINY:
        return tiny(family).build(LABELS)
    checkpoint(family, folder)
    return CheckpointModelConfig(checkpoint=str(folder)).build(LABELS)


def train(model: Segmenter, steps: int = 5) -> None:
    take_steps(model, steps)


def changed(model: Segmenter, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.hf.state_dict().items() if not torch.equal(value, before[name])}


def snapshot(model: Segmenter) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf.state_dict().items()}


@pytest.mark.many
@pytest.mark.parametrize("family", EVERY)
def test_a_frozen_backbone_keeps_every_bit_and_the_head_moves(family: str, tmp_path: Path):
    model = build(family, tmp_path)
    freeze(model, ["backbone"])
    before = snapshot(model)
    train(model)
    moved = changed(model, before)
    encoder = {name for name in before if name.startswith(f"{anatomy.encoder_name(model.hf)}.")}
    assert encoder
    assert not moved & encoder
    assert {name.split(".")[0] for name in moved} & set(anatomy.head_names(model.hf))


@pytest.mark.many
@pytest.mark.parametrize("family", EVERY)
def test_the_first_stages_freeze_with_the_stem_and_the_last_one_moves(family: str, tmp_path: Path):
    model = build(family, tmp_path)
    freeze(model, ["backbone.stages.0-2"])
    frozen = set(model.frozen_modules)
    before = snapshot(model)
    train(model)
    moved = changed(model, before)
    assert not {name for name in moved if name.rpartition(".")[0] in frozen}
    table = {str(row["module"]): row for row in parameter_table(model)}
    stages = [row for name, row in table.items() if name.rpartition(".")[2].isdigit()]
    if stages:
        assert [row["trainable"] == 0 for row in stages] == [True, True, True, *[False] * (len(stages) - 3)]
    stems = [row for name, row in table.items() if any(w in name for w in ("embeddings", "embedder", "conv_stem"))]
    assert all(row["trainable"] == 0 for row in stems)
    assert any(name.startswith(f"{anatomy.stages(model.hf)[-1]}.") for name in moved)
    assert {name.split(".")[0] for name in moved} & set(anatomy.head_names(model.hf))


def test_every_family_is_frozen_here():
    assert set(FAMILIES) <= {*FAMILIES_HERE}


def test_all_but_the_classifier_trains_the_classifier_alone():
    model = tiny("convnext").build(LABELS)
    before = snapshot(model)
    freeze(model, ["all-but:decode_head.classifier"])
    train(model)
    assert changed(model, before) == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    freeze(model, ["all-but:classifier"])
    before = snapshot(model)
    train(model)
    assert {name.split(".")[0] for name in changed(model, before)} == {"decode_head", "auxiliary_head"}


def test_several_all_but_keep_all_that_they_name():
    model = tiny("convnext").build(LABELS)
    freeze(model, ["all-but:decode_head.classifier", "all-but:auxiliary_head"])
    trained = {name.split(".")[0] for name, p in model.hf.named_parameters() if p.requires_grad}
    assert trained == {"decode_head", "auxiliary_head"}


def test_module_globs_and_single_stages_freeze_what_they_name():
    model = tiny("convnext").build(LABELS)
    freeze(model, ["decode_head.psp_modules*", "backbone.stages.1", "backbone.stages.2-3.layers.*"])
    frozen = {name for name, p in model.hf.named_parameters() if not p.requires_grad}
    assert frozen == {
        name
        for name, _ in model.hf.named_parameters()
        if name.removeprefix("backbone.encoder.").startswith(
            ("stages.1.", "stages.2.layers", "stages.3.layers", "decode_head.psp_modules")
        )
    }


def test_frozen_modules_drop_nothing_after_train():
    model = SegformerModelConfig(
        pretrained="none",
        overrides={**MIT, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
        drop_path=0.5,
    ).build(LABELS)
    image = torch.rand(2, 3, 64, 64)
    freeze(model, ["backbone"])
    for _ in range(2):
        model.eval()
        model.train()
    encoder = model.hf.segformer
    assert torch.equal(encoder(image).last_hidden_state, encoder(image).last_hidden_state)
    assert not any(module.training for module in encoder.modules())
    assert model.hf.decode_head.training


def test_unfreezing_trains_everything_again_but_what_nothing_uses():
    model = tiny("swin").build(LABELS)
    unused = {name for name, p in model.hf.named_parameters() if not p.requires_grad}
    assert unused == {"backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias"}
    freeze(model, ["backbone"])
    unfreeze(model)
    assert {name for name, p in model.hf.named_parameters() if not p.requires_grad} == unused
    assert all(module.training for module in model.modules())
    before = snapshot(model)
    train(model, 2)
    assert any(name.startswith("backbone.") for name in changed(model, before))


def test_freezing_anew_lets_go_of_what_was_frozen():
    model = tiny("convnext").build(LABELS)
    freeze(model, ["backbone"])
    freeze(model, ["auxiliary_head"])
    assert {name.split(".")[0] for name, p in model.hf.named_parameters() if not p.requires_grad} == {"auxiliary_head"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("decode_hed", r"freeze pattern `decode_hed` matches no module\n\nhint: did you mean `decode_head`"),
        ("backbone.encoder.stage.0", r"matches no module\n\nhint: did you mean `backbone.encoder.stages.0`"),
        ("backbone.stages.2-4", r"names stages that are not there: the encoder has 4"),
        ("backbone.stages.x", r"names stages that are not there: the encoder has 4"),
        ("backbone.stages.0.attention", r"`backbone.stages.0.attention` matches no module"),
        ("all-but:clasifier", r"`clasifier` matches no module"),
        ("*", r"freezing `\*` leaves nothing to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused_and_change_nothing(pattern: str, message: str):
    model = tiny("convnext").build(LABELS)
    freeze(model, ["auxiliary_head"])
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ModelError, match=message):
        freeze(model, [pattern])
    assert [p.requires_grad for p in model.parameters()] == before


@pytest.mark.many
@pytest.mark.parametrize("family", EVERY)
def test_the_table_holds_every_parameter_once(family: str, tmp_path: Path):
    model = build(family, tmp_path)
    freeze(model, ["head"])
    table = parameter_table(model)
    assert sum(int(row["total"]) for row in table) == sum(p.numel() for p in model.hf.parameters())
    trainable = sum(p.numel() for p in model.hf.parameters() if p.requires_grad)
    assert sum(int(row["trainable"]) for row in table) == trainable
    assert len({row["module"] for row in table}) == len(table)


def test_a_frozen_pooled_norm_allows_batches_of_one():
    model = tiny("convnext").build(LABELS)
    assert model.minimum_train_batch == 2
    freeze(model, ["decode_head.psp_modules"])
    assert model.minimum_train_batch == 1
    model.train()
    model(torch.rand(1, 3, 64, 64))


def test_the_config_reads_a_list_or_a_text():
    assert FreezeConfig.model_validate({"modules": "backbone, decode_head.*"}).modules == ("backbone", "decode_head.*")
    assert FreezeConfig.model_validate({"modules": ["backbone"]}).modules == ("backbone",)
    assert FreezeConfig().modules == ()
    with pytest.raises(ValueError, match="`until_step` has no effect without `modules`"):
        FreezeConfig(until_step=10)


def test_stages_are_set_free_one_after_the_other():
    plan = FreezeConfig(
        modules="backbone",
        until_step=10,
        then=({"modules": "backbone.stages.0-2", "until_step": 20}, {"modules": "backbone.stem,backbone.stages.0"}),
    )
    assert plan.steps == (10, 20)
    assert [plan.patterns(step) for step in (0, 9, 10, 19)] == [
        *[("backbone",)] * 2,
        *[("backbone.stages.0-2",)] * 2,
    ]
    assert plan.patterns(20) == plan.patterns(10_000) == ("backbone.stem", "backbone.stages.0")
    assert FreezeConfig(modules="backbone", until_step=5).patterns(5) == ()
    assert FreezeConfig().steps == FreezeConfig(modules="head").steps == ()
    model = tiny("convnext").build(LABELS)
    free = []
    for step in (0, 10, 20):
        freeze(model, plan.patterns(step))
        free.append({name for name, parameter in model.hf.named_parameters() if parameter.requires_grad})
    assert free[0] < free[1] < free[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"modules": "backbone", "then": [{"modules": "head", "until_step": 5}]},
        {"modules": "backbone", "until_step": 5, "then": [{"modules": "head", "until_step": 5}]},
        {"modules": "backbone", "until_step": 5, "then": [{"modules": "head"}, {"modules": "head", "until_step": 9}]},
    ],
)
def test_stages_that_never_come_are_refused(settings):
    with pytest.raises(ValueError, match="each later than the last one"):
        FreezeConfig(**settings)
