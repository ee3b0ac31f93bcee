"""What a place reads of memory: each block's weights against its own output, and the maps and pictures made of them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_members import MEMBERS, built, features
from test_streaming import built as model_of
from test_streaming import film
from torch import Tensor

from hfseg.engine.inference import WholeConfig
from hfseg.errors import DataError, ModelError
from hfseg.models import memory_maps
from hfseg.models.attention import Reading, TemporalAttention
from hfseg.models.attention.attend import Attend
from hfseg.models.attention.criss_cross import TimeLine
from hfseg.models.attention.lines import CrissCross, _each
from hfseg.recipes.explain.attention import AttentionConfig, look, run_attention
from hfseg.recipes.explain.opened import Opened

SIZE, PLACE = (5, 7), (3, 2)
SILENT = ("psp", "psp, memory only", "nonlocal_residual, dot product", "criss_cross, space")
"""Members that read all cells alike, by weights that sum to no 1, or no memory."""
READERS = [name for name in MEMBERS if name not in SILENT]


def flat(reading: Reading) -> Tensor:
    """The weights in the order in which attention takes keys: frame by frame, grid by grid."""
    return torch.cat([grid.flatten(1) for grid in reading.grids], dim=1).flatten()


def read(
    block: TemporalAttention, memory: int
) -> tuple[tuple[Reading, ...], list[tuple[Any, tuple[Any, ...], Tensor]]]:
    """The readings of one place, and every call in which the block averages values: module, inputs, output."""
    with torch.no_grad():
        prepared = block.prepare(features(1, size=SIZE))
        frames = block.gather(prepared, block.encode(features(1, memory, size=SIZE, seed=5)) if memory else None)
        calls: list[tuple[Any, tuple[Any, ...], Tensor]] = []
        handles = [
            module.register_forward_hook(lambda *call: calls.append(call))
            for module in block.modules()
            if isinstance(module, Attend | TimeLine | CrissCross)
        ]
        block.recall(prepared, frames)
        for handle in handles:
            handle.remove()
        return block.readings(prepared, frames, PLACE), calls


def averaged(module: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, Tensor]:
    """The values that were to be averaged, in the order of `flat`, and the average that the block made of them."""
    row, column = PLACE
    if isinstance(module, Attend):
        return inputs[2][0], output[0, row * SIZE[1] + column]
    maps = inputs[0]
    if isinstance(module, TimeLine):
        values = module.value(inputs[2][0]).permute(0, 2, 3, 1).flatten(0, 2)
        return values, (output - maps)[0, :, row, column] / module.gamma
    values = _each(module.value, maps)[0].flatten(1).T
    return values, (output - maps[:, :, -1:])[0, :, 0, row, column] / module.gamma


@pytest.mark.parametrize("memory", [0, 1, 4])
@pytest.mark.parametrize("name", READERS)
def test_weights_sum_to_one_and_times_values_give_what_the_block_reads(name: str, memory: int):
    block = built(name)
    readings, calls = read(block, memory)
    read_last = calls[-len(readings) :]  # passes before the last are of all frames
    assert len(readings) == (2 if name.startswith("dual+") else 1)
    for reading, call in zip(readings, read_last, strict=True):
        weights = flat(reading).nan_to_num()
        assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
        with torch.no_grad():
            values, expected = averaged(*call)
        assert torch.allclose(weights @ values, expected, atol=1e-10)
        assert len(reading.frames) == len(reading.grids[0])


@pytest.mark.parametrize("name", SILENT)
def test_a_block_without_weights_of_places_says_nothing(name: str):
    assert read(built(name), 2)[0] == ()


def test_lines_are_read_where_they_are_and_nowhere_else():
    (space,), _ = read(built("criss_cross, full"), 2)
    seen = ~space.grids[0].isnan()
    assert seen[:2].sum() == 2
    assert seen[2].sum() == sum(SIZE) - 1
    (line,), _ = read(built("criss_cross, separate"), 2)
    assert (~line.grids[0].isnan()).nonzero().tolist() == [[frame, *PLACE] for frame in range(3)]


def test_frames_are_told_by_their_age_and_bins_by_the_frames_they_average():
    clip = film(4) / 255
    first = memory_maps(model_of("nonlocal"), clip, points=[(20.0, 10.0)])[0]
    assert [list(ages) for ages in first.ages] == [[3], [2], [1]]
    assert (first.grid, first.query, first.stride, first.cell_px) == ((4, 6), (1, 2), 8, (8, 8))
    coarse = memory_maps(model_of("apnb, time bins"), clip, points=[(20.0, 10.0)])[-1]
    assert [list(ages) for ages in coarse.ages] == [[2, 3], [0, 1]]
    assert coarse.cell_px == (8.0, 12.0)
    assert torch.equal(memory_maps(model_of("dual"), clip[:, -1], points=[(0.0, 0.0)])[0].shares, torch.ones(1))


def test_another_past_is_read_otherwise_and_points_outside_are_refused():
    model, clip = model_of("apnb"), film(4) / 255
    other = torch.cat([film(3, seed=8) / 255, clip[:, -1:]], dim=1)
    ours, theirs = (memory_maps(model, each, points=[(20.0, 10.0)])[1].weights for each in (clip, other))
    assert not torch.allclose(ours, theirs)
    with pytest.raises(DataError, match="point .48, 10. lies outside the image"):
        memory_maps(model, clip, points=[(48.0, 10.0)])


def frames_of(count: int) -> np.ndarray:
    return film(count)[0].permute(0, 2, 3, 1).contiguous().numpy()


def opened(name: str, folder: Path) -> Opened:
    model = model_of(name, memory_frames=2)
    model.hf.config.memory_step = 3
    from test_streaming import LABELS

    return Opened(model, LABELS, WholeConfig(short_side=64), folder, lambda _text: None)


def test_memory_has_rows_of_its_own_in_the_picture_and_lines_in_the_table(tmp_path: Path):
    written = run_attention(AttentionConfig(point=(20, 10)), opened("apnb", tmp_path), iter([("a", frames_of(3))]))
    assert [path.name for path in written] == ["a-attention.jpg", "a-attention.csv"]
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    assert {row["stage"] for row in rows} == {"memory"}  # a ResNet has no attention
    assert [row["head"] for row in rows] == ["-6", "-3", "0"] * 3
    assert [row["key_rows"] for row in rows[::3]] == ["1", "3", "4"]
    taken = sum(1 - float(row["elsewhere"]) for row in rows)
    assert taken == pytest.approx(1, abs=1e-4)


def test_stages_of_an_encoder_without_attention_are_refused_and_so_is_a_model_with_nothing_to_show(tmp_path: Path):
    with pytest.raises(ModelError, match="encoder `resnet` has no attention to show"):
        look(AttentionConfig(stages=(4,)), opened("apnb", tmp_path), frames_of(3))
    with pytest.raises(ModelError, match="encoder `resnet` has no attention to show"):
        look(AttentionConfig(), opened("psp", tmp_path), frames_of(3))
