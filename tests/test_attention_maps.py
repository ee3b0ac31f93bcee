"""Attention maps: each family against the probabilities that its own modules give, and against what follows from them."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hfseg.errors import DataError, ModelError
from hfseg.labels import LabelSpace
from hfseg.models import AttentionMap, SegformerModelConfig, Segmenter, UperNetModelConfig, attention_maps
from hfseg.models.looking import ATTENTIVE

LABELS = LabelSpace.from_names(["road", "car", "sky"])
PYRAMID = {"depths": [2, 1, 2, 1], "num_heads": [1, 2, 2, 4]}
SWIN = {**PYRAMID, "embed_dim": 8, "window_size": 3}
NAT = {**PYRAMID, "embed_dim": 8, "kernel_size": 3}
VIT = {"num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "image_size": 64}
REDUCED: dict[str, Any] = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]}
TINY: dict[str, dict[str, Any]] = {
    "segformer": {**REDUCED, "decoder_hidden_size": 16},
    "pvt_v2": REDUCED,
    "pvt_v2, linear": {**REDUCED, "linear_attention": True},
    "nat": NAT,
    "dinat": {**NAT, "dilations": [[2, 3], [2], [1, 2], [2]]},
    "swin": SWIN,
    "maskformer-swin": SWIN,
    "swinv2": SWIN,
    "fastervit": {
        "depths": [1, 1, 2, 1],
        "stem_channels": 8,
        "embed_dim": 8,
        "num_heads": [2, 2],
        "window_size": [3, 2],
    },
    "beit": {**VIT, "intermediate_size": 32, "use_relative_position_bias": True},
    "dinov2": {**VIT, "mlp_ratio": 2},
    "dinov2_with_registers": {**VIT, "mlp_ratio": 2, "patch_size": 14},
    "dinov3_vit": {**VIT, "intermediate_size": 32, "num_register_tokens": 2},
}
VALUES = {
    "segformer": ("v_proj", "o_proj"),
    "pvt_v2": ("value", "proj"),
    "nat": ("self.value", "output"),
    "dinat": ("self.value", "output"),
    "swin": ("attention.v_proj", "attention.o_proj"),
    "maskformer-swin": ("attention.self.value", "attention.output"),
    "swinv2": ("attention.self.value", "attention.output"),
    "fastervit": ("attn.qkv", "attn.proj"),
}
"""Where a block's values come from, and where what its heads have gathered goes."""
SIZE = (112, 144)
POINTS = [(0.0, 0.0), (143.0, 111.0), (70.0, 3.0), (55.5, 60.0)]


@cache
def tiny(family: str) -> Segmenter:
    """A small model of random weights, large enough that no two weights of attention are alike."""
    torch.manual_seed(0)
    options = {"pretrained": "none", "overrides": TINY[family]}
    family = family.partition(",")[0]
    if family == "segformer":
        model = SegformerModelConfig(backbone="mit-b0", **options).build(LABELS)
    else:
        model = UperNetModelConfig(backbone=family, hidden_size=16, auxiliary=False, **options).build(LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval().double()


def image(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@contextmanager
def caught(module: nn.Module, *, before: bool = False) -> Iterator[list[Any]]:
    """What a module gives, or the first argument that it gets."""
    found: list[Any] = []
    if before:
        handle = module.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    yield found
    handle.remove()


def run(
    model: Segmenter, block: nn.Module, *, attention: str, values: tuple[str, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """One forward pass in which the model is asked for all probabilities of a block, its values and what it gathered."""
    encoder: Any = model.hf.base_model if hasattr(model.hf, "segformer") else model.hf.backbone
    for module in encoder.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    with (
        caught(block.get_submodule(attention)) as attended,
        caught(block.get_submodule(values[0])) as value,
        caught(block.get_submodule(values[1]), before=True) as context,
        torch.no_grad(),
    ):
        encoder(pixel_values=model.normalize(image()), output_attentions=True)
    return attended[0][-1], value[0], context[0]


def window_tokens(grid: tuple[int, int], size: int, shift: int) -> Tensor:
    """The places row * width + column of the padded map that lie in each window, by rolling the numbers themselves."""
    height, width = (-(-length // size) * size for length in grid)
    rolled = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    return rolled.view(height // size, size, width // size, size).transpose(1, 2).reshape(-1, size * size)


def expected(family: str, found: AttentionMap, block: Any, parts: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, Tensor]:
    """The probabilities of a query by what they lie on, and what its heads have gathered.

    Keys are (row, column), or the number of a token without a place; each comes with its probability and its value.
    """
    probabilities, values, context = parts
    (rows, columns), (row, column) = found.grid, found.query
    if family in ("nat", "dinat"):
        cells = [tuple(cell) for cell in found.view.cells.tolist()]
        weights = probabilities[0, :, row, column]
        by_key = {cell: (weights[:, i], values[0, cell[0], cell[1]]) for i, cell in enumerate(cells)}
        return by_key, context[0, row, column]
    if family in ("swin", "maskformer-swin", "swinv2", "fastervit"):
        size, shift = int(block.window_size), int(getattr(block, "shift_size", 0))
        tokens = window_tokens(found.grid, size, shift)
        width = -(-columns // size) * size
        number, token = (tokens == row * width + column).nonzero()[0].tolist()
        extra = probabilities.shape[-1] - size * size
        values = values.chunk(3, -1)[-1] if family == "fastervit" else values
        keys: list[Any] = [*range(extra), *(divmod(place, width) for place in tokens[number].tolist())]
        weights = probabilities[number, :, extra + token]
        return {key: (weights[:, i], values[number, i]) for i, key in enumerate(keys)}, context[number, extra + token]
    extra = 0 if family in ("segformer", "pvt_v2") else probabilities.shape[-1] - rows * columns
    width = found.view.key_grid[1]
    keys = [*range(extra), *(divmod(place, width) for place in range(probabilities.shape[-1] - extra))]
    query = extra + row * columns + column
    return {key: (probabilities[0, :, query, i], values[0, i]) for i, key in enumerate(keys)}, context[0, query]


@pytest.mark.many
@pytest.mark.parametrize("name", [*ATTENTIVE, "pvt_v2, linear"])
def test_weights_are_the_modules_own_and_give_its_output(name: str):
    model, family = tiny(name), name.partition(",")[0]
    maps = attention_maps(model, image(), points=POINTS)
    for module, of_block in groupby(maps, key=lambda found: found.module):
        block = model.hf.get_submodule(module)
        where = VALUES.get(family, ("v_proj", "o_proj"))
        parts = run(model, block, attention=ATTENTIVE[family].attention, values=where)
        for found in of_block:
            _compare(found, *expected(family, found, block, parts))


def _compare(found: AttentionMap, by_key: dict[Any, tuple[Tensor, Tensor]], gathered: Tensor) -> None:
    placeless = torch.cat([torch.zeros(found.num_heads, 0), *found.view.placeless.values()], dim=1)
    keys = [*range(placeless.shape[1]), *(tuple(cell) for cell in found.view.cells.tolist())]
    weights = torch.cat([placeless, found.view.weights], dim=1).double()
    assert len(keys) == len(set(keys))
    assert torch.allclose(weights.sum(1), torch.ones(found.num_heads, dtype=torch.float64), atol=1e-6)
    own = torch.stack([by_key[key][0] for key in keys], dim=1)
    assert torch.allclose(weights, own, atol=2e-6), found.module
    others = [weight for key, (weight, _) in by_key.items() if key not in set(keys)]
    assert all(float(weight.max()) < 1e-30 for weight in others)  # of other pieces of a rolled window
    values = torch.stack([by_key[key][1] for key in keys]).unflatten(1, (found.num_heads, -1))
    recomposed = torch.einsum("hc,chd->hd", weights, values).flatten()
    assert torch.allclose(recomposed, gathered, atol=1e-5), found.module


def projected(layer: Any, tokens: Tensor) -> Any:
    return (tokens @ layer.weight.T + layer.bias).tolist()


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("family", "stage", "block"), [("nat", 1, 1), ("nat", 3, 2), ("dinat", 1, 1), ("dinat", 1, 2)])
def test_a_neighborhood_is_what_a_loop_over_its_definition_gives(family: str, stage: int, block: int):
    model = tiny(family)
    maps = [m for m in attention_maps(model, image(), points=POINTS, stages=[stage]) if m.block == block]
    layer: Any = model.hf.get_submodule(maps[0].module)
    with caught(layer, before=True) as inputs, torch.no_grad():
        model.hf.backbone(pixel_values=model.normalize(image()))
    for found in maps:
        _compare_with_loop(found, layer.self, inputs[0][0])


def _compare_with_loop(found: AttentionMap, attention: Any, tokens: Tensor) -> None:
    (rows, columns), (row, column) = found.grid, found.query
    kernel, dilation, num_heads = attention.kernel_size, attention.dilation, attention.num_heads
    with torch.no_grad():
        query = projected(attention.query, tokens[row, column][None])[0]
        keys, table = projected(attention.key, tokens), attention.rpb.tolist()
    width = len(query) // num_heads

    def starts(place: int, length: int) -> list[int]:
        group = [other for other in range(length) if other % dilation == place % dilation]
        first = min(max(group.index(place) - kernel // 2, 0), len(group) - kernel)
        return group[first : first + kernel]

    cells = list(itertools.product(starts(row, rows), starts(column, columns)))
    assert [tuple(cell) for cell in found.view.cells.tolist()] == cells
    assert all(0 <= r < rows and 0 <= c < columns for r, c in cells)
    assert len(cells) == kernel**2
    assert (row, column) in cells
    assert found.view.dilation == dilation
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = [
            sum(a * b for a, b in zip(query[part], keys[r][c][part], strict=True)) / math.sqrt(width)
            + table[head][(r - row) // dilation + kernel - 1][(c - column) // dilation + kernel - 1]
            for r, c in cells
        ]
        assert found.view.weights[head].tolist() == pytest.approx(softmax(scores), abs=1e-6)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_reduced_keys_are_what_a_loop_over_squares_of_cells_gives(stage: int):
    model = tiny("segformer")
    size = (136, 152)  # 34 x 38 cells, of which keys of 8 x 8 cells leave some out
    found = attention_maps(model, image(size), points=[(140.0, 20.0)], stages=[stage])[0]
    attention: Any = model.hf.get_submodule(found.module)
    with caught(attention, before=True) as inputs, torch.no_grad():
        model.hf.segformer(pixel_values=model.normalize(image(size)))
        (rows, columns), ratio = found.grid, attention.sequence_reduction_ratio
        tokens = inputs[0][0].view(rows, columns, -1)
        squares = list(itertools.product(range(rows // ratio), range(columns // ratio)))
        summed = torch.stack([tokens[r * ratio : (r + 1) * ratio, c * ratio : (c + 1) * ratio] for r, c in squares])
        if ratio > 1:
            reduction = attention.sequence_reduction
            weight, bias = reduction.sequence_reduction.weight, reduction.sequence_reduction.bias
            summed = reduction.layer_norm(torch.einsum("nhwc,dchw->nd", summed, weight) + bias)
        keys = projected(attention.k_proj, summed.view(len(squares), -1))
        query = projected(attention.q_proj, tokens[found.query][None])[0]
    assert [tuple(cell) for cell in found.view.cells.tolist()] == squares
    assert found.key_px == (found.stride * ratio,) * 2
    width = attention.head_dim
    for head in range(found.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = [sum(a * b for a, b in zip(query[part], key[part], strict=True)) / math.sqrt(width) for key in keys]
        assert found.view.weights[head].tolist() == pytest.approx(softmax(scores), abs=1e-6)


def test_windows_at_an_edge_show_the_querys_own_piece_where_it_is():
    plain, shifted = attention_maps(tiny("swin"), image(), points=[(0.0, 0.0)], stages=[1])
    assert plain.view.cells.tolist() == [[r, c] for r in range(3) for c in range(3)]
    assert shifted.view.kind == "shifted window of 3 x 3"
    assert shifted.view.cells.tolist() == [[0, 0]]
    inner = attention_maps(tiny("swin"), image(), points=[(10.0, 6.0)], stages=[1])[1]
    assert inner.query == (1, 2)
    assert inner.view.cells.tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3)]


def test_a_window_that_reaches_over_a_small_map_takes_padding_and_says_so():
    found = attention_maps(tiny("dinat"), image((64, 64)), stages=[4])[0]
    assert found.grid == (2, 2)
    assert len(found.view.cells) == 9
    assert int(found.inside.sum()) == 1
    dense = found.dense()
    assert torch.allclose(found.padding, 1 - dense.nan_to_num().sum((1, 2)), atol=1e-6)
    assert float(found.padding.min()) > 0
    assert found.distance_px.isfinite().all()


def test_distances_are_means_over_the_cells_on_the_map():
    found = attention_maps(tiny("fastervit"), image(), points=[(140.0, 100.0)], stages=[3])[0]
    total, weight = [0.0] * found.num_heads, [0.0] * found.num_heads
    for cell, weights, inside in zip(found.view.cells.tolist(), found.view.weights.T, found.inside, strict=True):
        if not inside:
            continue
        away = math.hypot(*((a - b) * found.stride for a, b in zip(cell, found.query, strict=True)))
        assert away <= found.reach_px
        total = [t + float(w) * away for t, w in zip(total, weights, strict=True)]
        weight = [t + float(w) for t, w in zip(weight, weights, strict=True)]
    assert found.distance_px.tolist() == pytest.approx([t / w for t, w in zip(total, weight, strict=True)], rel=1e-5)
    assert set(found.view.placeless) == {"carrier tokens"}


def test_tokens_behind_a_neck_lie_where_the_neck_put_them():
    """Patches of 14 pixels stand for 16 pixels of the image, because the neck scales what the encoder sees."""
    found = attention_maps(tiny("dinov2_with_registers"), image((100, 140)), points=[(139.0, 99.0)], stages=[2])[0]
    assert found.stride == 16
    assert found.grid == (7, 9)
    assert found.query == (6, 8)
    assert {name: weights.shape[1] for name, weights in found.view.placeless.items()} == {
        "class token": 1, "registers": 4
    }  # fmt: skip


class Bytes(TorchDispatchMode):
    """Adds up the bytes of all that operators give and that is not part of what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        outputs = function(*args, **(kwargs or {}))
        fresh = [each for each in tree_leaves(outputs) if isinstance(each, Tensor)]
        self.total += sum(
            each.numel() * each.element_size() for each in fresh if each.untyped_storage().data_ptr() not in given
        )
        return outputs


@pytest.mark.parametrize("size", [(256, 512), pytest.param((1024, 2048), marks=pytest.mark.slow)])
def test_a_large_image_costs_the_rows_of_its_points_alone(size: tuple[int, int]):
    model = deepcopy(tiny("segformer")).float()
    pixels = image(size).float()
    with Bytes() as alone, torch.no_grad():
        model.hf.segformer(pixel_values=model.normalize(pixels))
    with Bytes() as looked:
        found = attention_maps(model, pixels)
    num_keys = size[0] * size[1] // 32**2
    assert found[0].view.weights.shape == (1, num_keys)
    rows = sum(each.view.weights.numel() for each in found) * 4
    assert looked.total - alone.total < 40 * rows < size[0] * size[1] // 4**2 * num_keys * 4 / 10


def test_a_model_is_left_as_it_was():
    model = deepcopy(tiny("nat")).train()
    modes = [module.training for module in model.modules()]
    attention_maps(model, image())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.backbone.modules())


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("convnextv2", "encoder `convnextv2` has no attention to show\n\nhint: .*segformer.*dinat"),
        ("resnet", "encoder `resnet` has no attention to show"),
        ("vitdet", "encoder `vitdet` computes attention in a way that is not known"),
    ],
)
def test_encoders_without_readable_attention_are_refused_with_those_that_have_it(backbone: str, message: str):
    overrides = {**VIT, "mlp_ratio": 2} if backbone == "vitdet" else {"depths": [1, 1, 1, 1], "hidden_sizes": [8] * 4}
    model = UperNetModelConfig(backbone=backbone, pretrained="none", overrides=overrides, hidden_size=16).build(LABELS)
    with pytest.raises(ModelError, match=message):
        attention_maps(model, image().float())


def test_wrong_points_and_stages_are_refused():
    model = tiny("fastervit")
    with pytest.raises(DataError, match="point .144, 5. lies outside the image: expected x below 144 and y below 112"):
        attention_maps(model, image(), points=[(144.0, 5.0)])
    with pytest.raises(ModelError, match="stage 1 has no attention: expected one of 3, 4"):
        attention_maps(model, image(), stages=[1])
