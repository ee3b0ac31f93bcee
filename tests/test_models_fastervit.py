"""FasterViT: the published network's outputs, any size from one set of weights, published files, training and saving.

`data/fastervit_reference.safetensors` holds random weights of a narrow network, under their published names, and what
the published network computed with them: the maps of the levels before each step down, of an image of 224 x 224
(`case0`), and of the last two levels of one of 448 x 448 from its second (`case1`). `data/fastervit_0_shapes.json` holds
the names and shapes in the published file of FasterViT-0.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor

from hfseg.errors import ModelError
from hfseg.models.backbones.build import build_backbone
from hfseg.models.backbones.fastervit import (
    VARIANTS,
    FasterVitBackbone,
    FasterVitConfig,
    from_published,
    published_settings,
)
from hfseg.models.backbones.fastervit_blocks import join_windows, split_windows
from hfseg.models.backbones.fastervit_positions import PairPosition, PlacePosition
from hfseg.models.backbones.plan import plan

DATA = Path(__file__).parent / "data"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
REFERENCE: dict[str, Any] = {"stem_channels": 16, "embed_dim": 16, "depths": [1, 1, 3, 1], "num_heads": [4, 8]}
TINY: dict[str, Any] = {"stem_channels": 8, "embed_dim": 8, "depths": [1, 1, 2, 2], "num_heads": [2, 4]}
PUBLISHED_MILLIONS = {
    "fastervit-0": 31.4, "fastervit-1": 53.4, "fastervit-2": 75.9, "fastervit-3": 159.5, "fastervit-5": 957.5,
    "fastervit-6": 1360.0,
}  # fmt: skip
"""Parameters with the classifier of 1,000 classes. The 424.6 of fastervit-4 are not reached with the depths known."""


def tiny(**others: Any) -> FasterVitBackbone:
    torch.manual_seed(0)
    return FasterVitBackbone(FasterVitConfig(**{**TINY, "out_features": STAGES, **others}))


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter and statistic a value that matters."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.1, generator=generator)
            tensor.add_(1.0 if name.endswith("running_var") or tensor.ndim == 1 else 0.0)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(DATA / "fastervit_reference.safetensors")


@pytest.fixture(scope="module")
def exact(trained: FasterVitBackbone) -> FasterVitBackbone:
    """The network in float64: carrier tokens weigh little in the reference, so the comparison must be a close one."""
    return copy.deepcopy(trained).double()


@pytest.fixture(scope="module")
def trained(reference: dict[str, Tensor]) -> FasterVitBackbone:
    model = FasterVitBackbone(FasterVitConfig(**REFERENCE, out_features=STAGES)).eval()
    weights = {name.removeprefix("weight/"): tensor for name, tensor in reference.items() if name.startswith("weight/")}
    model.load_state_dict(weights)
    return model


@pytest.fixture
def published() -> Iterator[dict[str, Any]]:
    """A training checkpoint of FasterViT-0 as it is published; its tensors take no memory."""
    shapes = json.loads((DATA / "fastervit_0_shapes.json").read_text())
    state = {f"module.{name}": torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    return {"epoch": 300, "arch": "faster_vit_0_224", "state_dict": state}


def test_maps_are_those_of_the_published_network(exact: FasterVitBackbone, reference: dict[str, Tensor]):
    with torch.no_grad():
        maps = exact(reference["case0/pixel_values"].double()).feature_maps
    errors = [relative_error(each, reference[f"case0/level{level}"]) for level, each in enumerate(maps)]
    assert max(errors) < 2e-6, errors


def test_the_same_weights_give_the_published_maps_at_twice_the_size(
    exact: FasterVitBackbone, reference: dict[str, Tensor]
):
    current, errors = reference["case1/level1"].double(), []
    with torch.no_grad():
        for level in (2, 3):
            current, _ = exact.levels[level](exact.levels[level - 1].downsample(current), output_attentions=False)
            errors.append(relative_error(current, reference[f"case1/level{level}"]))
    assert max(errors) < 2e-6, errors


def test_asking_for_attention_does_not_change_the_maps(trained: FasterVitBackbone, reference: dict[str, Tensor]):
    with torch.no_grad():
        output = trained(reference["case0/pixel_values"], output_attentions=True)
    assert relative_error(output.feature_maps[3], reference["case0/level3"]) < 1e-5
    assert [tuple(each.shape) for each in output.attentions] == 3 * [(4, 4, 53, 53)] + [(1, 8, 49, 49)]
    assert all(torch.allclose(each.sum(-1), torch.ones(()), atol=1e-5) for each in output.attentions)


@pytest.mark.parametrize("size", [(100, 131), (64, 64), (33, 500), (225, 223), (1, 1)])
def test_strides_are_4_8_16_32_rounded_up(size: tuple[int, int]):
    model = tiny().eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size), output_hidden_states=True)
    expected = [(1, 8 * 2**level, *(-(-side // 2 ** (level + 2)) for side in size)) for level in range(4)]
    assert [tuple(each.shape) for each in output.feature_maps] == expected
    assert [tuple(each.shape) for each in output.hidden_states] == [expected[0], *expected]
    assert model.channels == [8, 16, 32, 64]


def test_a_portrait_is_not_treated_as_a_landscape():
    model = tiny().eval()
    randomize(model)
    image = torch.rand(1, 3, 120, 250)
    with torch.no_grad():
        upright = model(image).feature_maps[2]
        lying = model(image.mT).feature_maps[2].mT
    assert upright.shape == lying.shape
    assert relative_error(upright, lying) > 0.01


def test_images_of_a_batch_do_not_see_each_other():
    model = tiny().eval()
    randomize(model)
    images = torch.rand(3, 3, 250, 120)
    with torch.no_grad():
        together, alone = model(images).feature_maps, model(images[1:2]).feature_maps
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one[1:2], other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_carrier_tokens_take_what_a_window_has_seen_to_the_others():
    model = tiny(depths=[1, 1, 1, 1]).eval()
    randomize(model)
    level = model.levels[2]
    features = torch.randn(1, 32, 14, 28)
    changed = features.clone()
    changed[..., 1, 1] += 1
    with torch.no_grad():
        before, _ = level(features, output_attentions=False)
        after, _ = level(changed, output_attentions=False)
    assert ((before - after).abs().amax(dim=1) > 1e-7).all()


def test_windows_are_cut_row_by_row_and_put_back():
    grid = torch.arange(2 * 6 * 9, dtype=torch.float32).view(2, 6, 9, 1)
    windows = split_windows(grid, 3)
    assert windows.shape == (2, 6, 9, 1)
    assert torch.equal(windows[1, 4].view(3, 3), grid[1, 3:6, 3:6, 0])
    assert torch.equal(join_windows(windows, rows=2, size=3), grid)


def test_pair_positions_are_those_of_a_loop_on_grids_of_two_lengths():
    torch.manual_seed(0)
    positions, height, width = PairPosition(2), 4, 6
    places = [(row, column) for row in range(height) for column in range(width)]
    expected = torch.empty(2, len(places), len(places))
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            scaled = [8 * (query[axis] - key[axis]) / (length - 1) for axis, length in enumerate((height, width))]
            coordinates = torch.tensor(scaled)
            logarithmic = coordinates.sign() * torch.log2(coordinates.abs() + 1) / 3
            expected[:, i, j] = 16 * torch.sigmoid(positions.cpb_mlp(logarithmic))
    assert torch.allclose(positions(height, width), expected, atol=1e-5)


def test_place_positions_are_those_of_a_loop_on_grids_of_two_lengths():
    torch.manual_seed(0)
    positions = PlacePosition(5)
    expected = torch.stack([torch.tensor([(row - 2) / 2, (column - 3) / 3]) for row in range(4) for column in range(7)])
    assert torch.allclose(positions(4, 7).flatten(0, 1), positions.cpb_mlp(expected), atol=1e-6)
    assert positions(1, 2).isfinite().all()


def test_gradients_reach_every_parameter():
    model = tiny(layer_scale_init_value=0.5, drop_path_rate=0.1).eval()
    randomize(model)
    sum(each.square().mean() for each in model(torch.rand(2, 3, 200, 260)).feature_maps).backward()
    unreached = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not unreached


def test_nothing_in_a_state_dict_depends_on_the_size_of_images():
    model = tiny().eval()
    before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model(torch.rand(1, 3, 300, 90))
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == before
    assert not [name for name in before if "relative" in name]


@pytest.mark.parametrize("scale", [None, 0.25])
def test_a_saved_encoder_opens_equal(tmp_path: Path, scale: float | None):
    model = tiny(layer_scale_init_value=scale).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    again = FasterVitBackbone.from_pretrained(tmp_path).eval()
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    image = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        assert relative_error(model(image).feature_maps[0], again(image).feature_maps[0]) < 1e-6


def test_new_weights_start_from_the_configured_layer_scale(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    config = FasterVitConfig.from_pretrained(tmp_path, layer_scale_init_value=0.125)
    model, report = FasterVitBackbone.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert sorted(report["missing_keys"]) == sorted(name for name in model.state_dict() if name.endswith("gamma"))
    assert len(report["missing_keys"]) == 2 * 4 + 2 * 2
    assert all((model.state_dict()[name] == 0.125).all() for name in report["missing_keys"])


def test_a_published_file_fits_the_variant_it_is_of(published: dict[str, Any]):
    with torch.device("meta"):
        model = FasterVitBackbone(FasterVitConfig(**VARIANTS["fastervit-0"]))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in from_published(published).items()} == expected


def test_a_published_file_tells_its_settings(published: dict[str, Any]):
    assert FasterVitConfig(**published_settings(published)).to_dict() == FasterVitConfig().to_dict()


def test_names_that_nothing_is_known_of_are_left_for_the_caller_to_refuse(published: dict[str, Any]):
    published["state_dict"]["module.levels.2.blocks.0.strange"] = torch.zeros(1)
    assert "levels.2.blocks.0.strange" in from_published(published)


def test_layer_scales_of_published_files_are_told_apart_by_the_level_without_carriers(published: dict[str, Any]):
    for level, depth, numbers in ((2, 6, (1, 2, 3, 4)), (3, 5, (3, 4))):
        for block in range(depth):
            for number in numbers:
                name = f"module.levels.{level}.blocks.{block}.gamma{number}"
                published["state_dict"][name] = torch.full((64 * 2**level,), float(number))
    assert published_settings(published)["layer_scale_init_value"] == 1e-5
    renamed = from_published(published)
    with torch.device("meta"):
        model = FasterVitBackbone(FasterVitConfig(**published_settings(published)))
    assert renamed.keys() == model.state_dict().keys()
    ends = {"hat_attn_end": 1, "hat_mlp_end": 2, "attn_end": 3, "mlp_end": 4}
    assert {end: float(renamed[f"levels.2.blocks.5.{end}.gamma"][0]) for end in ends} == ends


def test_copies_of_one_parameter_that_differ_are_refused(published: dict[str, Any]):
    name = "module.levels.2.global_tokenizer.pos_embed.bias"
    published["state_dict"][name] = published["state_dict"][name] + 1
    with pytest.raises(ModelError, match=r"`levels\.2\.global_tokenizer\..*` differs from its second copy"):
        from_published(published)


def test_any_other_file_tells_no_settings():
    assert published_settings({"state_dict": {"conv1.weight": torch.zeros(1)}}) == {}


@pytest.mark.many
@pytest.mark.parametrize(
    ("name", "message"), [("fastervit-0", None), ("fastervit-1", r"has embed_dim 80 and .* has 64")]
)
def test_the_encoder_is_as_deep_as_its_file(published: dict[str, Any], name: str, message: str | None, tmp_path: Path):
    for parameter in list(published["state_dict"]):
        if ".levels.3.blocks.4." in f".{parameter.removeprefix('module.')}":
            del published["state_dict"][parameter]
    torch.save(published, tmp_path / "fastervit.pth.tar")
    if message:
        with pytest.raises(ModelError, match=message):
            plan(name, str(tmp_path / "fastervit.pth.tar"), overrides={})
        return
    planned = plan(name, str(tmp_path / "fastervit.pth.tar"), overrides={})
    assert planned.config.depths == [2, 3, 6, 4]
    assert build_backbone(planned).new_parameters == ()


@pytest.mark.many
@pytest.mark.parametrize("variant", sorted(PUBLISHED_MILLIONS))
def test_variants_have_the_published_number_of_parameters(variant: str):
    with torch.device("meta"):
        model = FasterVitBackbone(FasterVitConfig(**VARIANTS[variant]))
    width = model.channels[-1]
    classifier = 2 * width + (width + 1) * 1000
    millions = (sum(parameter.numel() for parameter in model.parameters()) + classifier) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[variant], rel=5e-4)


def test_checkpointing_changes_neither_gradients_nor_batch_statistics():
    results = []
    for recompute in (False, True):
        model = tiny(drop_path_rate=0.3).train()
        if recompute:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        sum(each.square().mean() for each in model(torch.rand(4, 3, 120, 120)).feature_maps).backward()
        results.append(
            {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())
        )
    for name, plain in results[0].items():
        assert torch.equal(plain, results[1][name]), name


def test_drop_path_rises_to_its_rate_and_acts_in_training_only():
    model = tiny(drop_path_rate=0.5)
    rates = [block.drop_path.rate for block in (*model.levels[0].blocks, *model.levels[1].blocks)]
    rates += [block.mlp_end.drop_path.rate for block in (*model.levels[2].blocks, *model.levels[3].blocks)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(model.train()(image).feature_maps[3], model(image).feature_maps[3])
        assert torch.equal(model.eval()(image).feature_maps[3], model(image).feature_maps[3])


def test_half_precision_stays_close(trained: FasterVitBackbone, reference: dict[str, Tensor]):
    half = FasterVitBackbone(trained.config).eval()
    half.load_state_dict(trained.state_dict())
    with torch.no_grad():
        maps = half.bfloat16()(reference["case0/pixel_values"][..., :96, :96].bfloat16()).feature_maps
        whole = trained(reference["case0/pixel_values"][..., :96, :96]).feature_maps
    assert all(each.dtype == torch.bfloat16 for each in maps)
    assert all(relative_error(each.float(), other) < 0.05 for each, other in zip(maps, whole, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": [1, 1, 1]}, "`depths` must be 4 positive numbers"),
        ({"num_heads": [2, 4, 8, 16]}, "`num_heads` must be 2 positive numbers"),
        ({"num_heads": [3, 4]}, "a width of 32 cannot be divided among 3 heads"),
        ({"carrier_size": 8}, "`carrier_size` must lie within 1 and the window's size: got 8"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(StrictDataclassError, match=message):
        FasterVitConfig(**{**TINY, **settings})
