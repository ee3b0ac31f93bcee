"""NAT and DiNAT: equal to the last stack that ran them, at any size, with every option of the published classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import run_alone
from safetensors import safe_open
from torch import nn
from transformers import AutoBackbone, AutoConfig, DinatConfig, PreTrainedModel

from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import UperNetModelConfig, open_model, save_model
from hfseg.models.assemble import unused_parameters
from hfseg.models.backbones.dilations import auto_dilations, check_dilations
from hfseg.models.backbones.dinat import DinatBackbone, NatBackbone, NatConfig, set_attention_impl
from hfseg.models.backbones.dinat_weights import from_published

DATA = Path(__file__).parent / "data"
LABELS = LabelSpace.from_names(["road", "car", "sky"])
KINDS = {"dinat": (DinatConfig, DinatBackbone), "nat": (NatConfig, NatBackbone)}
OURS = ("embed_dim", "depths", "num_heads", "kernel_size", "dilations", "mlp_ratio", "layer_scale_init_value")
TINY = {"embed_dim": 8, "depths": [2, 2, 1, 1], "num_heads": [1, 2, 2, 4], "kernel_size": 3}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def reference(kind: str) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of one forward and backward pass of Transformers 4.52 on NATTEN 0.17.5's own kernels."""
    with safe_open(DATA / f"{kind}_reference.safetensors", "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def referenced(kind: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor], list[str]]:
    metadata, tensors = reference(kind)
    stored = json.loads(metadata["config"])
    config_class, backbone_class = KINDS[kind]
    kept = {key: stored[key] for key in OURS if key in stored}
    backbone = backbone_class(config_class(**kept, out_features=STAGES))
    weights = {name.removeprefix("weight/"): value for name, value in tensors.items() if name.startswith("weight/")}
    backbone.load_state_dict(weights)
    return backbone.eval(), tensors, json.loads(metadata["parameters"])


def tiny(kind: str, **others: Any) -> PreTrainedModel:
    config_class, backbone_class = KINDS[kind]
    dilations = {"dilations": [[1, 2], [1, 3], [2], [1]]} if kind == "dinat" else {}
    torch.manual_seed(0)
    return backbone_class(config_class(**{**TINY, **dilations, "out_features": STAGES, **others}))


def randomize(module: nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand_like(parameter) * 0.4 - 0.1)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.many
@pytest.mark.parametrize(("kind", "case"), [("dinat", 0), ("dinat", 1), ("dinat", 2), ("nat", 0), ("nat", 1)])
def test_outputs_and_gradients_equal_the_reference(kind: str, case: int):
    backbone, tensors, parameters = referenced(kind)
    maps = backbone(tensors[f"case{case}/pixel_values"]).feature_maps
    for place, found in enumerate(maps):
        expected = tensors[f"case{case}/feature_map{place}"]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    sum((each**2).mean() for each in maps).backward()
    norms = torch.stack([backbone.get_parameter(name).grad.norm() for name in parameters])
    expected = tensors[f"case{case}/grad_norm"]
    assert torch.allclose(norms, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


@pytest.mark.parametrize("size", [(128, 128), (100, 131), (37, 64), (33, 33), (5, 9)])
def test_any_size_gives_maps_at_the_four_strides(kind: str, size: tuple[int, int]):
    backbone = tiny(kind)
    maps = backbone(torch.rand(1, 3, *size)).feature_maps
    assert [tuple(each.shape[2:]) for each in maps] == [
        (-(-size[0] // stride), -(-size[1] // stride)) for stride in (4, 8, 16, 32)
    ]
    assert [each.shape[1] for each in maps] == backbone.channels == [8, 16, 32, 64]


def test_what_is_saved_opens_equal_through_the_auto_classes(kind: str, tmp_path: Path):
    backbone = tiny(kind, layer_scale_init_value=0.1).eval()
    randomize(backbone)
    backbone.save_pretrained(tmp_path)
    assert type(AutoBackbone.from_config(AutoConfig.from_pretrained(tmp_path))) is type(backbone)
    again = type(backbone).from_pretrained(tmp_path).eval()
    before, after = backbone.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    images = torch.rand(1, 3, 70, 45)
    pairs = zip(backbone(images).feature_maps, again(images).feature_maps, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_new_weights_follow_the_config(kind: str):
    backbone = tiny(kind, layer_scale_init_value=0.25)
    layer = backbone.encoder.levels[0].layers[0]
    assert layer.layer_scale_parameters.unique().tolist() == [0.25]
    assert not layer.attention.self.rpb.any()
    assert 0.015 < float(layer.intermediate.dense.weight.detach().std()) < 0.025


def test_attentions_and_hidden_states_come_when_asked_for(kind: str):
    backbone = tiny(kind).eval()
    randomize(backbone)
    images = torch.rand(2, 3, 64, 96)
    plain = backbone(images)
    assert plain.hidden_states is None
    assert plain.attentions is None
    full = backbone(images, output_attentions=True, output_hidden_states=True)
    assert [tuple(each.shape) for each in full.hidden_states] == [
        (2, 16, 24, 8), (2, 16, 24, 8), (2, 8, 12, 16), (2, 4, 6, 32), (2, 2, 3, 64)
    ]  # fmt: skip
    assert all(torch.allclose(each.sum(-1), torch.ones(())) for each in full.attentions)
    assert full.attentions[0].shape == (2, 1, 16, 24, 9)
    pairs = zip(plain.feature_maps, full.feature_maps, strict=True)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
    assert len(backbone(images, return_dict=False)) == 1


def test_attention_dropout_acts_in_training_only(kind: str):
    backbone = tiny(kind, attention_probs_dropout_prob=0.5)
    randomize(backbone)
    images = torch.rand(1, 3, 64, 64)
    one, other = (backbone.train()(images).feature_maps[0] for _ in range(2))
    assert not torch.equal(one, other)
    one, other = (backbone.eval()(images).feature_maps[0] for _ in range(2))
    assert torch.equal(one, other)


def test_drop_path_leaves_out_whole_branches_and_keeps_the_mean(kind: str):
    backbone = tiny(kind, drop_path_rate=0.5)
    last = backbone.encoder.levels[-1].layers[-1].drop_path
    assert last.rate == 0.5
    assert backbone.encoder.levels[0].layers[0].drop_path.rate == 0
    torch.manual_seed(0)
    branch = last.train()(torch.ones(4000, 1, 1, 2))
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(branch[..., 0], branch[..., 1])
    assert abs(float(branch.mean()) - 1) < 0.05
    assert torch.equal(last.eval()(torch.ones(2, 1, 1, 2)), torch.ones(2, 1, 1, 2))


@pytest.mark.slow
def test_recomputing_gives_the_same_gradients(kind: str):
    backbone = tiny(kind, drop_path_rate=0.0).train()
    randomize(backbone)
    images = torch.rand(2, 3, 64, 96)
    gradients = []
    for recompute in (False, True):
        if recompute:
            backbone.activation_checkpointing_enable({"use_reentrant": False})
        backbone.zero_grad()
        sum(each.square().mean() for each in backbone(images).feature_maps).backward()
        gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_without_a_position_table_there_is_no_such_parameter(kind: str):
    backbone = tiny(kind, position_table=False)
    assert not [name for name in backbone.state_dict() if name.endswith("rpb")]
    assert backbone(torch.rand(1, 3, 64, 64)).feature_maps[0].shape == (1, 8, 16, 16)


MINI = [[1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4], [1, 2, 1, 2, 1]]
TINY_TO_BASE = [[1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4] * 3, [1, 2, 1, 2, 1]]
LARGE = [[1, 20, 1], [1, 5, 1, 10], [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5], [1, 2, 1, 2, 1]]


@pytest.mark.parametrize(
    ("depths", "crop", "expected"),
    [
        ([3, 4, 6, 5], 512, MINI),
        ([3, 4, 18, 5], 512, TINY_TO_BASE),
        ([3, 4, 18, 5], 640, LARGE),
        ([3, 4, 6, 5], 64, [[1, 2, 1], [1, 1, 1, 1], [1] * 6, [1] * 5]),
    ],
)
def test_auto_dilations_are_the_authors_own(depths: list[int], crop: int, expected: list[list[int]]):
    assert auto_dilations(depths, kernel_size=7, crop=(crop, 2 * crop)) == expected


@pytest.mark.parametrize("crop", [32, 224, 512, 769, 1024])
@pytest.mark.parametrize("kernel_size", [3, 7, 11])
def test_auto_dilations_keep_every_window_inside_its_map(crop: int, kernel_size: int):
    chosen = auto_dilations([3, 4, 6, 5], kernel_size=kernel_size, crop=(crop, crop))
    check_dilations(chosen, [3, 4, 6, 5])
    for stride, level in zip((4, 8, 16, 32), chosen, strict=True):
        assert max(level) == 1 or max(level) * kernel_size <= crop // stride


@pytest.mark.parametrize(
    ("dilations", "message"),
    [
        ([[1, 1], [1]], r"dilations are given for 2 levels: the encoder has 4"),
        ([[1], [1, 1], [1], [1]], r"dilations of level 0 are \[1\]: expected 2 numbers, one per layer"),
        ([[1, 0], [1, 1], [1], [1]], r"dilations of level 0 hold 0: expected whole numbers from 1"),
    ],
)
def test_dilations_that_do_not_fit_the_depths_are_refused(dilations: list[list[int]], message: str):
    with pytest.raises(ModelError, match=message):
        tiny("dinat", dilations=dilations)
    with pytest.raises(ModelError, match=message):
        UperNetModelConfig(
            backbone="dinat", pretrained="none", overrides=TINY, dilations=dilations, hidden_size=8
        ).build(LABELS)


def upernet(backbone: str, **others: Any) -> UperNetModelConfig:
    options = {"pretrained": "none", "overrides": TINY, "hidden_size": 8, "auxiliary_channels": 8}
    return UperNetModelConfig(backbone=backbone, **{**options, **others})


@pytest.mark.slow
def test_auto_dilations_are_written_into_what_is_saved(tmp_path: Path):
    model = upernet("dinat", dilations="auto").build(LABELS, crop=(128, 160))
    assert model.hf.config.backbone_config.dilations == [[1, 8], [1, 4], [1], [1]]
    save_model(model, LABELS, tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored["backbone_config"]["dilations"] == [[1, 8], [1, 4], [1], [1]]
    again, _ = open_model(tmp_path / "model")
    images = torch.rand(1, 3, 64, 96)
    assert torch.allclose(model.eval()(images).logits, again(images).logits, atol=1e-7)


def test_other_depths_ask_for_other_dilations():
    with pytest.raises(ModelError, match=r"dilations of level 0 are \[1, 8, 1\].*\n\nhint: `auto` chooses them"):
        upernet("dinat").build(LABELS)


def test_options_of_neighborhood_attention_are_refused_elsewhere():
    for option in ({"dilations": "auto"}, {"attention_impl": "tiled"}, {"position_table": False}):
        with pytest.raises(ModelError, match=rf"`model.{next(iter(option))}` has no effect on `convnext`"):
            UperNetModelConfig(backbone="convnext", pretrained="none", **option).build(LABELS, crop=(64, 64))
    with pytest.raises(ModelError, match=r"`model.dilations` has no effect on `nat`"):
        upernet("nat", dilations="auto").build(LABELS, crop=(64, 64))
    with pytest.raises(ModelError, match=r"`model.dilations` is `auto` and the training crop is not known"):
        upernet("dinat", dilations="auto").build(LABELS)


@pytest.mark.slow
def test_a_forced_way_reaches_every_layer():
    model = upernet("nat", attention_impl="gather").build(LABELS)
    assert {m.impl for m in model.modules() if hasattr(m, "impl")} == {"gather"}
    images = torch.rand(1, 3, 64, 64)
    forced = model.eval()(images).logits
    chosen = upernet("nat").build(LABELS).eval()
    chosen.load_state_dict(model.state_dict())
    assert torch.allclose(forced, chosen(images).logits, atol=1e-5)
    with pytest.raises(ModelError, match=r"`model.attention_impl` is `magic`: expected"):
        upernet("nat", attention_impl="magic").build(LABELS)


def test_a_way_that_cannot_run_here_is_refused_when_the_model_is_built():
    with pytest.raises(ModelError, match=r"`model.attention_impl` is `natten`, which cannot run here: natten"):
        upernet("nat", attention_impl="natten").build(LABELS)


@pytest.mark.slow
def test_dry_runs_choose_their_own_way():
    model = upernet("nat").build(LABELS)
    set_attention_impl(model.hf.backbone, "natten")  # as if on a GPU, before the model is moved there
    assert model.minimum_train_batch == 2
    assert unused_parameters(model) == ()
    with pytest.raises(ValueError, match="natten"):
        model(torch.rand(2, 3, 64, 64))


def published(backbone: PreTrainedModel, *, segmentation: bool) -> dict[str, torch.Tensor]:
    """The same weights under the names of the authors' files, written out part by part."""
    ours, theirs = backbone.state_dict(), {}

    def give(old: str, new: str, *suffixes: str) -> None:
        theirs.update({f"{new}.{suffix}": ours[f"{old}.{suffix}"] for suffix in suffixes})

    for place in (0, 1):
        give(f"embeddings.patch_embeddings.projection.{place}", f"patch_embed.proj.{place}", "weight", "bias")
    give("embeddings.norm", "patch_embed.norm", "weight", "bias")
    for level, depth in enumerate(backbone.config.depths):
        for index in range(depth):
            a, b = f"encoder.levels.{level}.layers.{index}", f"levels.{level}.blocks.{index}"
            give(f"{a}.attention.self", f"{b}.attn", "rpb")
            theirs[f"{b}.gamma1"], theirs[f"{b}.gamma2"] = ours[f"{a}.layer_scale_parameters"]
            for what in ("weight", "bias"):
                parts = [ours[f"{a}.attention.self.{part}.{what}"] for part in ("query", "key", "value")]
                theirs[f"{b}.attn.qkv.{what}"] = torch.cat(parts)
            for old, new in LAYER_NAMES.items():
                give(f"{a}.{old}", f"{b}.{new}", "weight", "bias")
        if segmentation:
            give(f"hidden_states_norms.stage{level + 1}", f"norm{level}", "weight", "bias")
    for level in range(3):
        give(f"encoder.levels.{level}.downsample", f"levels.{level}.downsample", "reduction.weight")
        give(f"encoder.levels.{level}.downsample.norm", f"levels.{level}.downsample.norm", "weight", "bias")
    if not segmentation:
        theirs |= {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
        theirs |= {"head.weight": torch.ones(10, 64), "head.bias": torch.zeros(10)}
    return theirs


LAYER_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


@pytest.mark.parametrize("segmentation", [True, False])
def test_the_authors_files_are_renamed_and_nothing_is_lost(kind: str, segmentation: bool):
    backbone = tiny(kind, layer_scale_init_value=0.1)
    randomize(backbone)
    renamed = from_published(published(backbone, segmentation=segmentation))
    expected = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if segmentation or not name.startswith("hidden_states_norms.")
    }
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[name], expected[name]) for name in expected)
    assert "strange.weight" in from_published({"strange.weight": torch.zeros(1)})


NATTENS = {
    "absent": None,
    "old": "def natten2dav(*a): raise AssertionError('called')\ndef natten2dqkrpb(*a): raise AssertionError('called')",
    "new": "def na2d(*a): raise AssertionError('called')",
}


KNOWS_BOTH = """
import torch
for name in ('nat', 'dinat'):
    config = CONFIG_MAPPING[name](embed_dim=8, num_heads=[1, 1, 1, 1], out_features=['stage4'])
    model = AutoBackbone.from_config(config)
    assert type(model).__module__.startswith('hfseg.'), type(model)
    assert model(torch.rand(1, 3, 64, 64)).feature_maps[0].shape == (1, 64, 2, 2)
"""


def install(functional: str | None, folder: Path) -> None:
    """Lay out a natten whose functions are these."""
    if functional is not None:
        package, metadata = folder / "natten", folder / "natten-0.0.dist-info"
        package.mkdir(parents=True)
        metadata.mkdir()
        (package / "__init__.py").write_text("__version__ = '0.0'\n")
        (package / "functional.py").write_text(functional)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: natten\nVersion: 0.0\n")


@pytest.mark.slow
def test_the_auto_classes_know_both_whichever_natten_there_is_and_in_either_order(tmp_path: Path):
    lines = ["import hfseg", "from transformers import AutoBackbone, CONFIG_MAPPING"]
    codes = []
    for kind, functional in NATTENS.items():
        install(functional, tmp_path / kind)
        found = f"import sys; sys.path.insert(0, {str(tmp_path / kind)!r})"
        codes += ["\n".join([found, *order, KNOWS_BOTH]) for order in (lines, lines[::-1])]
    run_alone(*codes)


@pytest.mark.many
@pytest.mark.parametrize("strange", [False, True])
def test_a_published_classifier_loads_into_the_encoder(kind: str, strange: bool, tmp_path: Path):
    encoder = tiny(kind)
    randomize(encoder)
    state = {f"{kind}.{k}": v for k, v in encoder.state_dict().items() if not k.startswith("hidden_states_norms.")}
    state |= {f"{kind}.layernorm.{what}": torch.ones(64) for what in ("weight", "bias")}
    state |= {"classifier.weight": torch.ones(5, 64), "classifier.bias": torch.ones(5)}
    state |= {f"{kind}.encoder.levels.0.layers.0.attention.self.strange": torch.ones(1)} if strange else {}
    config = {**encoder.config.to_dict(), "architectures": [f"{kind.title()}ForImageClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = UperNetModelConfig(backbone=str(tmp_path), hidden_size=8)
    if strange:
        with pytest.raises(ModelError, match=r"holds 1 parameters that encoder .* does not have: `.*strange`"):
            model.build(LABELS)
        return
    built = model.build(LABELS)
    taken = built.hf.backbone.state_dict()
    assert all(torch.equal(taken[name.removeprefix(f"{kind}.")], state[name]) for name in state if ".encoder." in name)
    new = [name for name in built.new_parameters if name.startswith("backbone.")]
    assert len(new) == 8
    assert all(name.startswith("backbone.hidden_states_norms.stage") for name in new)
