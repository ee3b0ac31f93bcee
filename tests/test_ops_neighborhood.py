"""The contract of neighborhood attention: every way equals a double loop written from the definition."""

import inspect
import random
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hfseg.models.ops import WAYS, Case, attention_probabilities, average_values, choose, neighborhood_attention
from hfseg.models.ops.windows import cut_tiles

PURE = [way for way in WAYS if way not in ("triton", "natten")]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class Shape(NamedTuple):
    batch: int
    heads: int
    height: int
    width: int
    head_dim: int
    kernel_size: int
    dilation: int
    table: bool
    heads_last: bool
    """Inputs are views of "b h w heads d" tensors, as an encoder makes them."""


def random_shapes(count: int) -> list[Shape]:
    draw = random.Random(0)
    shapes = []
    for number in range(count):
        kernel_size = draw.choice([3, 3, 5, 5, 7, 9, 11, 13])
        dilation = draw.randint(1, 4 if kernel_size < 7 else 2)
        reach = kernel_size * dilation
        shapes.append(Shape(
            draw.randint(1, 2), draw.randint(1, 3), reach + draw.randint(0, 7), reach + draw.randint(0, 7),
            draw.choice([1, 4, 5, 8]), kernel_size, dilation, number % 3 > 0, number % 2 > 0,
        ))  # fmt: skip
    return shapes


SHAPES = random_shapes(100)
EDGES = [
    Shape(1, 1, 3, 3, 4, 3, 1, True, False),  # exactly one window
    Shape(2, 2, 6, 7, 4, 3, 2, True, False),  # one group with one place more
    Shape(1, 1, 13, 29, 4, 13, 1, True, False),
    Shape(1, 2, 9, 40, 4, 3, 3, True, True),
    Shape(2, 1, 21, 22, 8, 7, 3, True, False),
    Shape(1, 1, 40, 35, 8, 5, 7, False, False),  # many groups
]


def oracle(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None, shape: Shape) -> Tensor:
    """The definition, one query after the other."""
    rows = []
    for y in range(shape.height):
        ys = window(y, shape.height, shape)
        for x in range(shape.width):
            xs = window(x, shape.width, shape)
            keys, values = (each[:, :, ys][:, :, :, xs].flatten(2, 3) for each in (key, value))
            scores = (query[:, :, y, x, None] * keys).sum(-1) / shape.head_dim**0.5
            if rpb is not None:
                down = [(place - y) // shape.dilation + shape.kernel_size - 1 for place in ys]
                across = [(place - x) // shape.dilation + shape.kernel_size - 1 for place in xs]
                scores = scores + rpb[:, down][:, :, across].flatten(1)
            rows.append((scores.softmax(-1)[..., None] * values).sum(2))
    return torch.stack(rows, dim=2).unflatten(2, (shape.height, shape.width))


def window(place: int, length: int, shape: Shape) -> list[int]:
    """The places along one axis that a place attends to."""
    group, index = place % shape.dilation, place // shape.dilation
    count = len(range(group, length, shape.dilation))
    start = min(max(index - shape.kernel_size // 2, 0), count - shape.kernel_size)
    return [(start + step) * shape.dilation + group for step in range(shape.kernel_size)]


def inputs(shape: Shape, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Leaves, and the views of them that are attended with, and the table."""
    generator = torch.Generator().manual_seed(1)
    sizes = (shape.batch, shape.heads, shape.height, shape.width, shape.head_dim)
    if shape.heads_last:
        sizes = (shape.batch, shape.height, shape.width, shape.heads, shape.head_dim)
    leaves = [torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]
    side = 2 * shape.kernel_size - 1
    if shape.table:
        leaves.append(torch.randn(shape.heads, side, side, generator=generator, dtype=torch.float64).to(dtype))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    views = [leaf.permute(0, 3, 1, 2, 4) if shape.heads_last else leaf for leaf in leaves[:3]]
    return leaves, views, leaves[3] if shape.table else None


def outcome(way: str | None, shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    """The output and every gradient, by a way, or by the definition."""
    leaves, views, rpb = inputs(shape, dtype)
    if way is None:
        output = oracle(*views, rpb, shape)
    else:
        output = neighborhood_attention(
            *views, rpb=rpb, kernel_size=shape.kernel_size, dilation=shape.dilation, impl=way
        )
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad(output, leaves, weights.to(output.dtype))
    return [output.detach(), *gradients]


@pytest.mark.parametrize(
    "shape",
    [*EDGES, *SHAPES[:2], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[2:])],
    ids=lambda shape: "-".join(map(str, map(int, shape))),
)
def test_every_way_equals_the_definition(shape: Shape):
    expected = outcome(None, shape, torch.float64)
    for way in PURE:
        for dtype, tolerance in TOLERANCE.items():
            for found, wanted in zip(outcome(way, shape, dtype), expected, strict=True):
                assert found.dtype == dtype
                scale = max(1.0, float(wanted.abs().max()))
                assert float((found.double() - wanted).abs().max()) <= tolerance * scale, (way, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("way", PURE)
@pytest.mark.parametrize("table", [True, False])
def test_gradients_pass_the_numeric_check(way: str, table: bool):
    shape = Shape(1, 2, 7, 8, 2, 3, 2, table, False)
    leaves, _, _ = inputs(shape, torch.float64)

    def attend(query: Tensor, key: Tensor, value: Tensor, rpb: Tensor | None = None) -> Tensor:
        return neighborhood_attention(query, key, value, rpb=rpb, kernel_size=3, dilation=2, impl=way)

    assert torch.autograd.gradcheck(attend, leaves)


@pytest.mark.parametrize("way", PURE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_come_out_as_they_go_in(way: str, dtype: torch.dtype):
    shape = Shape(2, 2, 15, 12, 8, 5, 2, True, True)
    for found, wanted in zip(outcome(way, shape, dtype), outcome(way, shape, torch.float32), strict=True):
        assert found.dtype == dtype
        scale = float(wanted.abs().max())
        assert float((found.float() - wanted).abs().max()) <= 8 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("way", PURE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_automatic_mixed_precision_changes_little(way: str, dtype: torch.dtype):
    """With the table in float32, as a model's parameters are, and maps as its projections give them, or not cast."""
    shape = Shape(2, 2, 15, 12, 8, 5, 2, True, True)
    leaves, views, rpb = inputs(shape, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = neighborhood_attention(
            *[view.to(dtype) for view in views], rpb=rpb, kernel_size=5, dilation=2, impl=way
        )
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found = [output.detach(), *torch.autograd.grad(output, leaves, weights.to(output.dtype))]
    for one, wanted in zip(found, outcome("gather", shape, torch.float32), strict=True):
        scale = float(wanted.abs().max())
        assert float((one.float() - wanted).abs().max()) <= 8 * torch.finfo(torch.bfloat16).eps * scale


@pytest.mark.parametrize("way", PURE)
def test_a_half_precision_map_takes_a_table_in_float32(way: str):
    _, views, rpb = inputs(Shape(1, 2, 7, 8, 4, 3, 2, True, True), torch.float32)
    output = neighborhood_attention(*[view.bfloat16() for view in views], rpb=rpb, kernel_size=3, dilation=2, impl=way)
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("way", PURE)
def test_training_follows_evaluation_on_maps_of_the_same_size(way: str):
    """A size that no other test has: what is kept for it must be made in inference mode."""
    leaves, views, rpb = inputs(Shape(1, 1, 10 + PURE.index(way), 37, 4, 3, 1, True, False), torch.float32)
    with torch.inference_mode():
        neighborhood_attention(*views, rpb=rpb, kernel_size=3, impl=way)
    output = neighborhood_attention(*views, rpb=rpb, kernel_size=3, impl=way)
    assert len(torch.autograd.grad(output.sum(), leaves)) == 4


def test_probabilities_sum_to_one_and_give_the_same_averages():
    shape = Shape(1, 2, 9, 10, 4, 3, 2, True, False)
    _, (query, key, value), rpb = inputs(shape, torch.float64)
    probabilities = attention_probabilities(query, key, rpb=rpb, kernel_size=3, dilation=2)
    assert probabilities.shape == (1, 2, 9, 10, 9)
    assert torch.allclose(probabilities.sum(-1), torch.ones((), dtype=torch.float64))
    averages = average_values(probabilities, value, kernel_size=3, dilation=2)
    assert torch.allclose(averages, oracle(query, key, value, rpb, shape))


def test_second_gradients_of_the_lean_way_are_refused():
    shape = Shape(1, 1, 6, 6, 2, 3, 1, False, False)
    _, views, _ = inputs(shape, torch.float64)
    output = neighborhood_attention(*views, kernel_size=3, impl="lean").square().sum()
    (gradient,) = torch.autograd.grad(output, views[0], create_graph=True)
    with pytest.raises(RuntimeError, match="neighborhood_attention_backward"):
        torch.autograd.grad(gradient.sum(), views[0])


@pytest.mark.parametrize("way", PURE)
def test_an_empty_batch_gives_an_empty_map(way: str):
    empty = torch.zeros(0, 2, 6, 7, 4)
    assert neighborhood_attention(empty, empty, empty, kernel_size=3, impl=way).shape == empty.shape


@pytest.mark.slow
@pytest.mark.parametrize("table", [True, False])
def test_the_lean_way_is_an_operator_by_the_rules(table: bool):
    _, views, rpb = inputs(Shape(1, 2, 9, 10, 4, 3, 2, table, False), torch.float32)
    torch.library.opcheck(torch.ops.hfseg.neighborhood_attention.default, (*views, rpb, 3, 2))


COMPILED = """
import sys, torch
from hfseg.models.ops import neighborhood_attention
maps = [torch.randn(1, 16, 20, 2, 8).requires_grad_() for _ in range(3)]
rpb = torch.randn(2, 5, 5).requires_grad_()
def attend(*maps):
    views = [each.permute(0, 3, 1, 2, 4) for each in maps]
    return 2 * neighborhood_attention(*views, rpb=rpb, kernel_size=3, dilation=2, impl=sys.argv[1])
compiled, plain = torch.compile(attend, fullgraph=True, backend="aot_eager")(*maps), attend(*maps)
assert torch.allclose(compiled, plain, atol=1e-5)
gradients = [torch.autograd.grad(each.square().sum(), [*maps, rpb]) for each in (compiled, plain)]
assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*gradients))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lean", "tiled"])
def test_compilers_meet_no_graph_break(way: str):
    """In a process of its own, because compilers cannot see through the checks of shapes that tests wrap around.

    Both graphs are traced whole, and run as they are: what a backend makes of them is not in question, and takes minutes.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED, way], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tile", [1, 4, 8])
@pytest.mark.parametrize("shape", EDGES[:5], ids=str)
def test_tiles_hold_every_query_once_and_all_its_keys(shape: Shape, tile: int):
    tiles = cut_tiles(
        shape.height, shape.width, kernel_size=shape.kernel_size, dilation=shape.dilation, tile=tile,
        device=torch.device("cpu"),
    )  # fmt: skip
    once = tiles.queries[tiles.repeated == 0]
    assert sorted(once.tolist()) == list(range(shape.height * shape.width))
    assert torch.equal(tiles.queries.flatten()[tiles.back], torch.arange(shape.height * shape.width))
    outside = (2 * shape.kernel_size - 1) ** 2
    for queries, keys, kind in zip(tiles.queries.tolist(), tiles.keys.tolist(), tiles.kinds.tolist(), strict=True):
        for query, row in zip(queries, (tiles.tables[kind] != outside).tolist(), strict=True):
            y, x = divmod(query, shape.width)
            expected = {
                down * shape.width + across
                for down in window(y, shape.height, shape)
                for across in window(x, shape.width, shape)
            }
            assert sorted(key for key, inside in zip(keys, row, strict=True) if inside) == sorted(expected)


def test_the_choice_depends_on_the_case_alone():
    case = Case("cpu", torch.float32, 128, 128, 32, 7, 8, True)
    assert choose(case) == "lean"
    assert choose(case._replace(device="cuda")) == choose(case._replace(device="xla")) == "tiled"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 4}, r"kernel_size must be odd, from 3 to 13: got 4"),
        ({"kernel_size": 15}, r"kernel_size must be odd, from 3 to 13: got 15"),
        ({"dilation": 0}, r"dilation must be 1 or more: got 0"),
        ({"dilation": 3}, r"a map of 8 x 9 is smaller than the window of kernel_size 3 x dilation 3: expected 9"),
        ({"rpb": torch.zeros(2, 3, 3)}, r"rpb must be 2 x 5 x 5: got 2 x 3 x 3"),
        ({"impl": "magic"}, r"there is no way `magic` to compute neighborhood attention: expected one of lean, tiled"),
        ({"impl": "triton"}, r"triton"),
        ({"impl": "natten", "rpb": torch.zeros(2, 5, 5)}, r"natten"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes: dict, message: str):
    query = torch.zeros(1, 2, 8, 9, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(query, query, query, **{"kernel_size": 3, **changes})


def test_maps_of_different_shapes_are_refused():
    query = torch.zeros(1, 2, 8, 9, 4)
    with pytest.raises(ValueError, match=r"must have one shape: got \[\[1, 2, 8, 9, 4\], \[1, 2, 9, 8, 4\]"):
        inspect.unwrap(neighborhood_attention)(query, query.transpose(2, 3), query, kernel_size=3)
