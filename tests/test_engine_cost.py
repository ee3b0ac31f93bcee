"""Costs against formulas worked out by hand, and time and memory against calls whose cost is known."""

import time

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from hfseg.engine.cost import CostConfig, Latency, count_macs, latencies, peak_bytes
from hfseg.engine.energy import counter_of, joules_per_call
from hfseg.labels import LabelSpace
from hfseg.models import UperNetModelConfig
from hfseg.models.ops import neighborhood_attention
from hfseg.models.ops.cost import FORMULAS

CPU = torch.device("cpu")


def macs(call):
    return count_macs(call, formulas=FORMULAS)


@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_costs_its_kernel_at_every_place_of_its_output(groups, inference):
    conv, image = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups), torch.zeros(2, 8, 16, 20)
    with inference():
        assert macs(lambda: conv(image)).total == 2 * 12 * 8 * 10 * (8 // groups) * 9


@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
def test_attention_costs_two_products_of_queries_and_keys_also_where_it_is_fused(inference):
    query, key = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 14, 8)
    with inference():
        found = macs(lambda: scaled_dot_product_attention(query, key, key))
        masked = macs(lambda: scaled_dot_product_attention(query, key, key, attn_mask=torch.zeros(10, 14)))
    assert found.total == masked.total == 2 * (2 * 3) * 10 * 14 * 8
    assert found.uncounted == ()


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (5, 2)])
def test_neighborhood_attention_costs_a_window_for_every_place(kernel_size, dilation):
    maps = [torch.randn(2, 3, 11, 13, 4) for _ in range(3)]
    found = macs(lambda: neighborhood_attention(*maps, kernel_size=kernel_size, dilation=dilation))
    assert found.total == 2 * (2 * 3 * 4) * 11 * 13 * kernel_size**2
    assert found.uncounted == ()


def test_a_linear_layer_and_what_only_moves_numbers():
    linear, rows = nn.Linear(7, 5), torch.zeros(2, 11, 7)
    assert macs(lambda: linear(rows)).total == 2 * 11 * 7 * 5
    assert macs(lambda: nn.functional.gelu(rows).add(1).softmax(-1)).total == 0
    images = torch.zeros(1, 3, 8, 8)
    resized = macs(lambda: nn.functional.interpolate(images, size=(4, 4), mode="bilinear"))
    assert (resized.total, resized.uncounted) == (0, ())


def test_an_operator_without_a_formula_is_named():
    @torch.library.custom_op("hfseg_test::twice", mutates_args=())
    def twice(rows: torch.Tensor) -> torch.Tensor:
        return rows @ rows

    found = macs(lambda: twice(torch.zeros(4, 4)))
    assert (found.total, found.uncounted) == (0, ("hfseg_test.twice",))


@pytest.mark.slow
def test_a_whole_nat_is_counted_to_its_last_operator_and_grows_with_the_image():
    sizes = {"depths": [1, 1, 1, 1], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "kernel_size": 3}
    config = UperNetModelConfig(backbone="nat", pretrained="none", overrides=sizes, hidden_size=16, auxiliary=False)
    model = config.build(LabelSpace.from_names(["a", "b"]), crop=(64, 64)).eval()
    small, large = (torch.zeros(1, 3, side, side, dtype=torch.uint8) for side in (128, 256))
    with torch.inference_mode():
        found = [macs(lambda image=image: model(image)) for image in (small, large)]
    assert found[0].uncounted == ()
    assert 3.8 < found[1].total / found[0].total <= 4.0  # all is linear in the pixels, but for the pooled maps


def test_calls_take_turns_and_the_warm_up_does_not_count():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = latencies(calls, CostConfig(warm_up=3, rounds=6), CPU)
    rounds = ["".join(order[place : place + 3]) for place in range(0, len(order), 3)]
    assert len(rounds) == 9
    assert {"abc", "bca", "cab"} == set(rounds)
    assert set(found) == set(calls)


def test_latency_is_the_median_and_the_quartiles():
    assert Latency.of([0.005, 0.001, 0.002, 0.003, 0.004]) == pytest.approx(Latency(3.0, 2.0, 4.0))
    slow = latencies({"nap": lambda: time.sleep(0.01)}, CostConfig(warm_up=0, rounds=1), CPU)["nap"]
    assert 10 <= slow.lower_ms == slow.median_ms == slow.upper_ms


def test_peak_memory_is_what_lived_at_the_same_time():
    def call():
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        return second * 2

    assert 8e6 <= peak_bytes(call, CPU) < 8.1e6


def test_energy_is_divided_by_the_calls_and_not_reported_where_nothing_counts_it():
    used = [0.0]

    def call():
        used[0] += 2.5

    assert joules_per_call(call, lambda: used[0], seconds=0.01) == pytest.approx(2.5)
    assert counter_of(CPU) is None
