"""The contract of class activation: every encoder, every layout of its maps, every formula."""

from typing import Any

import pytest
import torch
from test_models_backbones import TINY, tiny
from test_models_segmenter import LABELS, MIT
from torch import Tensor, nn

from hfseg.errors import ModelError
from hfseg.explain import METHODS, Box, Point, PredictedPixels, WholeImage, find_layer, observing
from hfseg.explain.layers import Layout, token_grid
from hfseg.models import FusionModelConfig, SegformerModelConfig, Segmenter, anatomy
from hfseg.values import SegOutput

MAPS = ("convnext", "convnextv2", "resnet", "bit", "hgnet_v2", "dinov3_convnext", "mobilenet_v2_backbone", "fastervit")
CHANNELS_LAST = ("nat", "dinat")
TOKENS = {"swin": 0, "swinv2": 0, "pvt_v2": 0, "beit": 1, "dinov2": 1, "dinov2_with_registers": 5, "dinov3_vit": 3}
"""How many tokens stand before those of the image."""
FAMILIES = [*MAPS, *CHANNELS_LAST, *TOKENS, "vitdet", "segformer"]
QUICK = {"convnextv2", "nat", "dinat", "swin", "segformer", "resnet", "fastervit", "dinov2_with_registers"}
EVERY = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in FAMILIES]
SIZE = (64, 96)


def build(family: str) -> Segmenter:
    torch.manual_seed(0)
    if family == "segformer":
        config = SegformerModelConfig(
            backbone="mit-b0", pretrained="none", overrides={k: MIT[k] for k in list(MIT)[:3]}
        )
        return config.build(LABELS).eval()
    return tiny(family).build(LABELS).eval()


def image(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


def place_in(family: str, values: Tensor, row: int, column: int, width: int) -> Tensor:
    """What stands at one place of the image in a layer's output: a view."""
    if family in TOKENS:
        return values[:, TOKENS[family] + row * width + column]
    return values[:, row, column] if family in CHANNELS_LAST else values[:, :, row, column]


def first(output: Any) -> Tensor:
    """The map of a block, whether it stands alone or at the head of tuples."""
    return output if isinstance(output, Tensor) else first(output[0])


@pytest.mark.many
@pytest.mark.parametrize("family", EVERY)
def test_the_map_of_an_inner_stage_is_the_slope_of_the_score_where_one_place_is_scaled(family: str):
    """HiResCAM at a place is the derivative of the score by a factor on all that stands there: taken by differences."""
    model = build(family).double()
    stage = anatomy.stages(model.hf)[1]
    pixels = image().double()
    layer = find_layer(model, f"hf.{stage}", pixels)
    with observing(model, layer, pixels) as seen:
        region = WholeImage().mask(seen.logits, 1)
        region[:, :5] = False
        heat = seen.explain(1, region, "hirescam")
    height, width = heat.shape
    assert heat.abs().sum() > 0

    def score(row: int, column: int, by: float) -> float:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            place_in(family, first(output), row, column, width).mul_(by)

        handle = layer.module.register_forward_hook(hook)
        with torch.no_grad():
            logits = model(pixels).logits
        handle.remove()
        return float(logits[0, 1][region].sum())

    for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (height // 2, width // 2 - 1)):
        slope = (score(row, column, 1 + 1e-5) - score(row, column, 1 - 1e-5)) / 2e-5
        assert slope == pytest.approx(float(heat[row, column]), rel=1e-4, abs=1e-6)


@pytest.mark.many
@pytest.mark.parametrize("family", EVERY)
def test_any_stage_gives_a_map_as_wide_for_its_height_as_the_image(family: str):
    model = build(family)
    for stage in anatomy.stages(model.hf):
        layer = find_layer(model, f"hf.{stage}", image())
        with observing(model, layer, image()) as seen:
            maps = [seen.explain(0, WholeImage().mask(seen.logits, 0), method) for method in METHODS]
        assert {heat.shape[0] * 3 for heat in maps} == {heat.shape[1] * 2 for heat in maps}
        assert all(heat.isfinite().all() for heat in maps)


@pytest.mark.many
@pytest.mark.parametrize("size", [(64, 64), (50, 77)])
@pytest.mark.parametrize("family", ["nat", "swin", "segformer"])
def test_square_images_and_odd_sizes_are_told_apart_too(family: str, size: tuple[int, int]):
    model = build(family)
    layer = find_layer(model, f"hf.{anatomy.stages(model.hf)[0]}", image(size))
    with observing(model, layer, image(size)) as seen:
        heat = seen.explain(0, WholeImage().mask(seen.logits, 0), "gradcam")
    assert heat.shape == (-(-size[0] // 4), -(-size[1] // 4))


class Ambiguous(nn.Module):
    """As many channels as rows and columns, in an order that a shape alone does not tell."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 4, stride=4)
        self.inner = Turned(last=last)
        self.head = nn.Conv2d(16, 2, 1)
        self.last = last

    def forward(self, pixel_values: Tensor) -> SegOutput:
        maps = self.inner(self.convolution(pixel_values))
        return SegOutput(self.head(maps.permute(0, 3, 1, 2) if self.last else maps))


class Turned(nn.Module):
    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1) if self.last else maps


@pytest.mark.parametrize("last", [False, True])
def test_as_many_channels_as_rows_and_columns_are_told_apart_by_an_image_of_another_size(last: bool):
    layer = find_layer(Ambiguous(last=last), "inner", image((64, 64)))
    assert layer.layout is (Layout.LAST if last else Layout.FIRST)


def test_tokens_are_laid_out_as_the_last_map_before_them_after_those_that_are_no_places():
    assert token_grid(24, [(16, 24)]) == (4, 6)
    assert token_grid(25, [(4, 6)]) == (4, 6)
    assert token_grid(29, [(4, 6)]) == (4, 6)
    assert token_grid(20, [(7, 9)]) == (4, 5)
    assert token_grid(997, [(4, 6)]) is None


def naive(method: str, maps: Tensor, gradients: Tensor) -> Tensor:
    """The published formulas, one number at a time."""
    channels, height, width = maps.shape
    heat = torch.zeros(height, width, dtype=torch.float64)
    for k in range(channels):
        total, count = float(maps[k].sum()), height * width
        weight = float(gradients[k].sum()) / count
        if method == "gradcam++":
            weight = 0.0
            for i in range(height):
                for j in range(width):
                    g = float(gradients[k, i, j])
                    below = 2 * g**2 + total * g**3
                    weight += (g**2 / below if below else 0.0) * max(g, 0.0)
        for i in range(height):
            for j in range(width):
                g = float(gradients[k, i, j])
                each = {"layercam": max(g, 0.0), "hirescam": g}.get(method, weight)
                heat[i, j] += each * float(maps[k, i, j])
    return heat


@pytest.mark.parametrize("method", METHODS)
def test_each_formula_is_the_published_one(method):
    generator = torch.Generator().manual_seed(2)
    maps, gradients = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)
    gradients[1] = 0.0
    found = METHODS[method](maps[None], gradients[None])[0]
    assert torch.allclose(found, naive(method, maps, gradients), atol=1e-12)


CAPTUM = {
    "resnet": "hf.backbone.encoder.stages.2",
    "convnextv2": "hf.backbone.encoder.stages.2",
    "segformer": "hf.segformer.stages.2",
    "nat": "hf.backbone.encoder.levels.1.downsample",
}
"""Layers whose output is a tensor alone, which is all that captum takes."""


@pytest.mark.many
@pytest.mark.parametrize("family", CAPTUM)
def test_captum_computes_the_same_maps(family: str):
    attr = pytest.importorskip("captum.attr")
    model = build(family).double()
    pixels = image().double()
    layer = find_layer(model, CAPTUM[family], pixels)
    with observing(model, layer, pixels) as seen:
        region = Box((0.2, 0.1), (0.7, 0.9)).mask(seen.logits, 2)
        ours = {method: seen.explain(2, region, method) for method in ("gradcam", "hirescam")}

    def score(inputs: Tensor) -> Tensor:
        return model(inputs).logits[:, 2][:, region].sum(1)

    inputs = pixels.clone().requires_grad_()
    products = attr.LayerGradientXActivation(score, layer.module).attribute(inputs)
    assert torch.allclose(products.sum(-1 if family in CHANNELS_LAST else 1)[0], ours["hirescam"], atol=1e-10)
    if family not in CHANNELS_LAST:  # its weights are means over all dimensions behind the second
        weighted = attr.LayerGradCam(score, layer.module).attribute(inputs)
        assert torch.allclose(weighted[0, 0], ours["gradcam"], atol=1e-10)


def test_a_head_can_be_looked_into_too():
    config = FusionModelConfig(backbone="convnextv2", pretrained="none", overrides=TINY["convnextv2"], hidden_size=32)
    model = config.build(LABELS).eval()
    layer = find_layer(model, "hf.decode_head.convolutions.1", image())
    with observing(model, layer, image()) as seen:
        heat = seen.explain(0, WholeImage().mask(seen.logits, 0), "layercam")
    assert heat.shape == (16, 24)


def test_the_logits_own_layer_shows_the_region_and_nothing_else():
    model = build("segformer")
    layer = find_layer(model, "hf.decode_head.classifier", image())
    with observing(model, layer, image()) as seen:
        region = Box((0.0, 0.0), (0.5, 0.5)).mask(seen.logits, 1)
        heat = seen.explain(1, region, "hirescam")
        assert torch.equal(heat, torch.where(region, seen.logits[0, 1].detach(), 0))


def test_gradients_are_kept_from_the_layer_on_and_parameters_stay_trainable():
    model = build("convnextv2")
    layer = find_layer(model, f"hf.{anatomy.stages(model.hf)[3]}", image())
    with observing(model, layer, image()) as seen:
        assert seen.held.is_leaf
        seen.explain(0, WholeImage().mask(seen.logits, 0), "gradcam")
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_layers_without_a_map_of_the_image_are_refused():
    model = build("swin")
    with pytest.raises(ModelError, match="auxiliary_head` takes no part in a prediction"):
        find_layer(model, "hf.auxiliary_head", image())
    inner = next(name for name, _ in model.named_modules() if name.endswith("attention"))
    with pytest.raises(ModelError, match="expected a map over the image"):
        find_layer(model, inner, image())


def test_regions_are_cells_of_the_logits():
    logits = torch.zeros(1, 2, 4, 8)
    logits[0, 1, 1, 2] = 1
    assert WholeImage().mask(logits, 1).all()
    assert PredictedPixels().mask(logits, 1).nonzero().tolist() == [[1, 2]]
    assert not PredictedPixels().mask(-logits, 1).any()
    assert Point((1.0, 1.0)).mask(logits, 1).nonzero().tolist() == [[3, 7]]
    assert Box((0.0, 0.0), (0.25, 0.5)).mask(logits, 1).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert Box((0.25, 0.5), (0.0, 0.0)).mask(logits, 1).sum() == 4
    assert Box((0.51, 0.51), (0.52, 0.52)).mask(logits, 1).nonzero().tolist() == [[2, 4]]


def test_a_layer_whose_output_is_overwritten_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
    layer = find_layer(model, "0", image())
    with pytest.raises(ModelError, match="`0` is changed in place by what follows"), observing(model, layer, image()):
        pass
