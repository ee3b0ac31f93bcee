"""The contract of encoders under UPerNet: every family, tiny, both orientations, from random weights and from files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    SegformerModel,
)

from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import ALIASES, FAMILIES, UperNetModelConfig, open_model, save_model
from hfseg.models.backbones import plan
from hfseg.models.sources import quiet

LABELS = LabelSpace.from_names(["road", "car", "sky"])
CONV = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
SWIN = {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "window_size": 2}
NAT = {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "kernel_size": 3}
VIT = {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "image_size": 64}
ONE_STRIDE: dict[str, dict[str, Any]] = {
    "dinov2": {**VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**VIT, "mlp_ratio": 2, "patch_size": 14},
    "dinov3_vit": {**VIT, "intermediate_size": 32, "num_register_tokens": 2},
    "vitdet": {**VIT, "mlp_ratio": 2},
}
"""Families that keep one stride, and get a neck."""
TINY: dict[str, dict[str, Any]] = {
    **ONE_STRIDE,
    "nat": NAT,
    "dinat": {**NAT, "dilations": [[2], [1], [1], [1]]},
    "fastervit": {
        "depths": [1, 1, 1, 1],
        "stem_channels": 8,
        "embed_dim": 8,
        "num_heads": [2, 2],
        "window_size": [2, 2],
    },
    "mobilenet_v2_backbone": {"depth_multiplier": 0.25},
    "convnext": CONV,
    "convnextv2": CONV,
    "dinov3_convnext": CONV,
    "resnet": {**CONV, "embedding_size": 8},
    "bit": {"depths": [1, 1, 1, 1], "hidden_sizes": [128, 128, 128, 128], "embedding_size": 32},
    "swin": SWIN,
    "swinv2": {**SWIN, "depths": [1, 1, 2, 1]},
    "maskformer-swin": {**SWIN, "depths": [2, 1, 1, 1]},
    "pvt_v2": {**CONV, "num_attention_heads": [1, 1, 2, 2]},
    "beit": {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 24, 32],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 24, 32, 40],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
    },
}
CHECKPOINTS = {"maskformer-swin": "swin", "mobilenet_v2_backbone": "mobilenet_v2"}
"""Families whose published weights are another family's."""
HERE_ALONE = {"nat", "dinat", "fastervit"}
"""Families that Transformers has no class for that runs."""
GIVES_HIDDEN_STATES = {"resnet", "bit", "hgnet_v2", "pvt_v2", "dinov3_convnext"}
"""Families whose maps are the hidden states of the classifier, without norms of their own."""
RECOMPUTING = {"swin", "swinv2", "maskformer-swin", "pvt_v2", "beit", "nat", "dinat", "fastervit", *ONE_STRIDE}
COUNTED_WITHOUT_HEAD = {*ONE_STRIDE, "mobilenet_v2_backbone"}
PUBLISHED_MILLIONS = {
    "mit-b0": 3.4, "mit-b1": 13.1, "mit-b2": 24.2, "mit-b3": 44.0, "mit-b4": 60.8, "mit-b5": 81.4,
    "convnext-tiny": 28.6, "convnext-small": 50.2, "convnext-base": 88.6, "convnext-large": 197.8,
    "convnext-xlarge": 350.2, "convnextv2-atto": 3.7, "convnextv2-femto": 5.2, "convnextv2-pico": 9.1,
    "convnextv2-nano": 15.6, "convnextv2-tiny": 28.6, "convnextv2-base": 88.7, "convnextv2-large": 198,
    "convnextv2-huge": 660, "resnet-18": 11.7, "resnet-26": 16.0, "resnet-34": 21.8, "resnet-50": 25.6,
    "resnet-101": 44.5, "resnet-152": 60.2, "bit-50": 25.5, "swin-tiny": 28.3, "swin-small": 49.6, "swin-base": 87.8,
    "swin-large": 196.5, "swinv2-tiny": 28.4, "swinv2-small": 49.7, "swinv2-base": 87.9, "swinv2-large": 196.7,
    "pvt-v2-b0": 3.7, "pvt-v2-b1": 14.0, "pvt-v2-b2": 25.4, "pvt-v2-b2-linear": 22.6, "pvt-v2-b3": 45.2,
    "pvt-v2-b4": 62.6, "pvt-v2-b5": 82.0, "beit-base": 86.5, "beit-large": 304.4, "nat-mini": 20.0, "nat-tiny": 27.9,
    "nat-small": 50.7, "nat-base": 89.8, "dinat-mini": 20.0, "dinat-tiny": 27.9, "dinat-small": 50.7,
    "dinat-base": 89.8, "dinat-large": 200.4, "dinov2-small": 22.1, "dinov2-base": 86.6, "dinov2-large": 304.4,
    "dinov2-giant": 1136.5, "dinov2-with-registers-small": 22.1, "dinov2-with-registers-base": 86.6,
    "dinov2-with-registers-large": 304.4, "dinov2-with-registers-giant": 1136.5, "dinov3-vit-small": 21.6,
    "dinov3-vit-base": 85.7, "dinov3-vit-large": 303.1, "vitdet": 85.8, "mobilenet-v2": 1.8,
}  # fmt: skip


def tiny(family: str, **others: Any) -> UperNetModelConfig:
    options = {"backbone": family, "pretrained": "none", "overrides": TINY[family]}
    return UperNetModelConfig(**{**options, "hidden_size": 16, "auxiliary_channels": 8, **others})


def randomize(module: torch.nn.Module) -> None:
    """Give every number another value, so that nothing equals its initial value by chance."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.05)


def published_folder(family: str, folder: Path, **overrides: Any) -> torch.nn.Module:
    """Write a folder like the family's checkpoints on the Hub: a classifier where there is one, and another config."""
    config = CONFIG_MAPPING[CHECKPOINTS.get(family, family)](**{**TINY[family], **overrides})
    if family == "hgnet_v2":
        config.hidden_sizes = TINY[family]["stage_out_channels"]
    model = published_class(config)(config)
    randomize(model)
    with quiet():
        model.save_pretrained(folder)
    return model


def published_class(config: Any) -> Any:
    """The class of the checkpoints: a classifier where there is one; of NAT and DiNAT none is left but the encoder."""
    if config.model_type in HERE_ALONE:
        return MODEL_FOR_BACKBONE_MAPPING[type(config)]
    mapping = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return (mapping if type(config) in mapping else MODEL_MAPPING)[type(config)]


@pytest.fixture(scope="module", params=sorted(TINY))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def published(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / family
    published_folder(family, folder)
    return folder


def test_every_family_has_a_tiny_member():
    assert {"segformer", *TINY} == set(FAMILIES)


@pytest.mark.many
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_forward_and_backward_reach_every_parameter(family: str, size: tuple[int, int]):
    torch.manual_seed(0)
    model = tiny(family).build(LABELS)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    logits, aux_logits = model(images)
    assert logits.shape == (2, 3, size[0] // 4, size[1] // 4)
    assert aux_logits is not None
    assert aux_logits.shape == (2, 3, size[0] // 16, size[1] // 16)
    (logits.square().mean() + aux_logits.square().mean()).backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    assert model(images).aux_logits is None


@pytest.mark.many
def test_a_saved_model_opens_equal(family: str, tmp_path: Path):
    model = tiny(family).build(LABELS)
    randomize(model.hf)
    model.eval()
    save_model(model, LABELS, tmp_path / "model")
    again, labels = open_model(tmp_path / "model")
    before, after = model.hf.state_dict(), again.hf.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert labels == LABELS
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():  # convolutions may sum in another order where tensors lie otherwise in memory
        assert torch.allclose(model(images).logits, again(images).logits, rtol=1e-5)


@pytest.mark.many
def test_weights_of_a_published_classifier_are_taken_over(family: str, published: Path):
    config = CONFIG_MAPPING[CHECKPOINTS.get(family, family)].from_pretrained(published)
    with quiet():
        stored = (published_class(config) if family in HERE_ALONE else MODEL_MAPPING[type(config)]).from_pretrained(
            published
        )
    values = {tensor.numpy().tobytes() for tensor in stored.state_dict().values()}
    model = tiny(family, pretrained=str(published), overrides={}).build(LABELS)
    taken = {
        f"backbone.{name}"
        for name, value in model.hf.backbone.state_dict().items()
        if value.numpy().tobytes() in values
    }
    used = {name for name, p in model.hf.named_parameters() if p.requires_grad and name.startswith("backbone.")}
    new = {name for name in model.new_parameters if name.startswith("backbone.")}
    assert used - taken == new
    assert all(name.split(".")[1] in ("hidden_states_norms", "fpn", "neck") for name in new)
    assert {"decode_head.classifier.weight", "auxiliary_head.classifier.bias"} <= set(model.new_parameters)
    if family in GIVES_HIDDEN_STATES:
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            maps = model.eval().hf.backbone(images).feature_maps
            hidden = stored.eval()(images, output_hidden_states=True).hidden_states
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(maps, hidden[-4:], strict=True))


@pytest.mark.many
def test_recomputing_gives_the_same_gradients_and_runs_blocks_again(family: str):
    torch.manual_seed(0)
    model = tiny(family, drop_path=0.0 if family in RECOMPUTING else None).build(LABELS)
    if family not in RECOMPUTING:
        with pytest.raises(ModelError, match=r"gradient checkpointing: `.*Backbone` of Transformers has none"):
            model.enable_gradient_checkpointing()
        return
    images = torch.rand(2, 3, 64, 96)
    plain, plain_runs = _gradients_and_runs(model, images)
    model.enable_gradient_checkpointing()
    again, again_runs = _gradients_and_runs(model, images)
    assert again_runs > plain_runs
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def _gradients_and_runs(model: torch.nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one step, and how often the linear layers of the encoder ran, forward and backward together."""
    runs: list[int] = []
    layers = [m for m in model.hf.backbone.modules() if isinstance(m, torch.nn.Linear)]
    handles = [layer.register_forward_hook(lambda *_: runs.append(1)) for layer in layers]
    model.zero_grad()
    model(images).logits.square().mean().backward()
    for handle in handles:
        handle.remove()
    return {name: p.grad.clone() for name, p in model.hf.backbone.named_parameters() if p.grad is not None}, len(runs)


@pytest.mark.parametrize(
    "alias",
    [
        pytest.param(alias, marks=() if alias.endswith(("b0", "tiny", "18", "50", "small")) else pytest.mark.slow)
        for alias, (family, _, _) in ALIASES.items()
        if family != "fastervit"  # it has a test of its own
        and family != "hgnet_v2"  # the published count is of another head
    ],
)
def test_built_in_sizes_have_the_published_parameter_counts(alias: str):
    key = alias.removeprefix("maskformer-")
    key = key if key in PUBLISHED_MILLIONS else key.removeprefix("dinov3-")
    config = plan(alias, "none", overrides={}).config
    is_mit = config.model_type == "segformer"
    with torch.device("meta"), quiet():
        model = (SegformerModel if is_mit else MODEL_FOR_BACKBONE_MAPPING[type(config)])(config)
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("fpn."))
    head = 0 if is_mit or config.model_type in COUNTED_WITHOUT_HEAD else 1001 * model.channels[-1]
    assert (count + head) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[key], rel=0.025)


@pytest.mark.parametrize(
    ("name", "alias"),
    [("resnet50", "resnet-50"), ("ConvNeXtV2", "convnextv2-tiny"), ("pvt_v2_b0", "pvt-v2-b0"), ("swin", "swin-tiny")],
)
def test_an_alias_is_found_however_it_is_written(name: str, alias: str):
    assert plan(name, "none", overrides={}).config.to_dict() == plan(alias, "none", overrides={}).config.to_dict()


def test_an_unknown_encoder_is_answered_with_the_closest_names():
    with pytest.raises(
        ModelError, match=r"encoder `convnexv2-bse` is not known.*\n\nhint: did you mean `convnextv2-base`"
    ):
        tiny("convnext", backbone="convnexv2-bse").build(LABELS)


def test_weights_of_another_family_are_refused_by_both_names(tmp_path: Path):
    published_folder("convnext", tmp_path)
    with pytest.raises(ModelError, match=r"`convnextv2-base` is of the family `convnextv2` and .* holds a `convnext`"):
        UperNetModelConfig(backbone="convnextv2-base", pretrained=str(tmp_path)).build(LABELS)


def test_weights_of_another_size_are_refused_by_both_sizes(tmp_path: Path):
    published_folder("convnext", tmp_path)
    with pytest.raises(ModelError, match=r"`convnext-base` has depths \[3, 3, 27, 3\] and .* has \[1, 1, 1, 1\]"):
        UperNetModelConfig(backbone="convnext-base", pretrained=str(tmp_path)).build(LABELS)


def test_overrides_that_do_not_fit_the_weights_are_refused(tmp_path: Path):
    published_folder("convnext", tmp_path)
    wider = {"hidden_sizes": [16, 16, 24, 32]}
    with pytest.raises(ModelError, match=r"do not fit encoder .*: `.*` is \[.*\] in the file and \[.*\] in the model"):
        UperNetModelConfig(backbone=str(tmp_path), overrides=wider).build(LABELS)


def test_incomplete_weights_are_refused_by_name(tmp_path: Path):
    published_folder("convnext", tmp_path)
    deeper = {"depths": [1, 1, 2, 1]}
    with pytest.raises(ModelError, match=r"lacks \d+ parameters of encoder .*: `encoder.stages.2.layers.1"):
        UperNetModelConfig(backbone=str(tmp_path), overrides=deeper).build(LABELS)


def test_no_network_and_no_weights_says_what_to_download():
    with pytest.raises(ModelError, match=r"run `hf download facebook/convnext-tiny-224`: it goes to") as caught:
        UperNetModelConfig(backbone="convnext").build(LABELS)
    assert "`--pretrained none` is the only way to random weights" in str(caught.value)


def test_a_folder_without_weights_is_no_random_start(tmp_path: Path):
    CONFIG_MAPPING["convnext"](**CONV).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no weights that can be read"):
        UperNetModelConfig(backbone=str(tmp_path)).build(LABELS)
    assert UperNetModelConfig(backbone=str(tmp_path), pretrained="none", hidden_size=8).build(
        LABELS
    ).hf.backbone.channels == [
        8,
        16,
        24,
        32,
    ]


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("focalnet", {"embed_dim": 8, "depths": [1, 1, 1, 1]},
         r"at strides 8, 16, 32, 32, of \[16, 32, 64, 64\] channels where it declares \[192, 384, .*: expected 4, 8, 16, 32"),
        ("hiera", {"embed_dim": 8, "depths": [1, 1, 1, 1]}, "images of 64 x 96 pixels, though it takes 224 x 224: "),
        ("vitpose_backbone", {**VIT, "image_size": [64, 32]}, "images of 64 x 96 pixels, though it takes 64 x 32: "),
        ("uvdoc_backbone", {}, r"at strides 16, 16, 16, 16, of \[128, .* channels where it declares \[5, .*: expected 4, 8, 16, 32"),
        ("vit", {"hidden_size": 16, "num_attention_heads": 2}, "has no backbone class for"),
    ],
)  # fmt: skip
def test_an_encoder_that_is_no_pyramid_is_refused_with_the_reason(
    family: str, settings: dict[str, Any], message: str, tmp_path: Path
):
    CONFIG_MAPPING[family](**settings).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        UperNetModelConfig(backbone=str(tmp_path), pretrained="none").build(LABELS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depth": [1, 1, 1, 1]}, r"`model.overrides.depth` is not a setting of the encoder family `convnext`"),
        ({"out_features": ["stage4"]}, r"`model.overrides.out_features` is not a setting"),
        ({"hidden_sizes": "wide"}, r"config of the encoder `convnext` makes no sense"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(overrides: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        tiny("convnext", overrides=overrides).build(LABELS)


def test_widths_that_bit_cannot_have_are_refused():
    with pytest.raises(ModelError, match=r"hidden_sizes must be divisible by 128 \(4 x num_groups\): got 96"):
        tiny("bit", overrides={**TINY["bit"], "hidden_sizes": [96, 128, 128, 128]}).build(LABELS)


def test_drop_path_reaches_the_encoder_and_is_refused_where_there_is_none():
    assert tiny("convnext", drop_path=0.3).build(LABELS).hf.config.backbone_config.drop_path_rate == 0.3
    with pytest.raises(ModelError, match=r"`model.drop_path` has no effect on `resnet`"):
        tiny("resnet", drop_path=0.3).build(LABELS)


def test_a_segformer_encoder_belongs_to_segformer():
    with pytest.raises(ModelError, match=r"`mit-b0` is SegFormer's own"):
        UperNetModelConfig(backbone="mit-b0", pretrained="none").build(LABELS)


def test_the_auxiliary_head_is_an_option():
    model = tiny("convnext", auxiliary=False, auxiliary_channels=None).build(LABELS)
    assert model(torch.rand(2, 3, 64, 64)).aux_logits is None
    with pytest.raises(ValueError, match=r"`auxiliary_channels` has no effect without the auxiliary head"):
        tiny("convnext", auxiliary=False)
