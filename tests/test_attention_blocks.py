"""The contract of temporal attention blocks, every member in it."""

import pytest
import torch
from attention_members import CHANNELS, HIGH, LOW, MEMBERS, built, features, frame, maps, picked, randomize
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hfseg.errors import ModelError
from hfseg.models.attention import (
    AttentionConfig,
    CrissCrossConfig,
    Extent,
    Features,
    TemporalAttention,
    attend,
    stack_frames,
)
from hfseg.models.attention.attend import WAYS, Attend
from hfseg.models.attention.pyramid import bin_frames, sample

READERS = [name for name in MEMBERS if built(name).reads_memory]
ORDERED = ("nonlocal, slots", "apnb, time bins")
"""Members for which the order of frames matters."""
FULL = ("criss_cross, full", "criss_cross, full, once")
"""Members in which a frame in memory counts by itself, so that equal frames do not stand for one."""
TOLERANCE = 1e-11


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def elsewhere(remembered: Tensor) -> Tensor:
    """Shuffle the places, or the cells, of what is remembered."""
    grid = remembered.shape[3:]
    places = torch.randperm(grid.numel(), generator=torch.Generator().manual_seed(3))
    return remembered.flatten(3)[..., places].unflatten(3, grid)


def force(block: TemporalAttention, way: str) -> None:
    for module in block.modules():
        if isinstance(module, Attend):
            module.way = way


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (13, 2)])
def test_any_length_of_memory_and_any_size_gives_a_map_of_the_frames_size(name: str, size: tuple[int, int]):
    block, query = built(name), features(2, size=size)
    for count in range(6):
        read = block(query, features(2, count, size=size, seed=3))
        assert read.shape == (2, CHANNELS, *size)
        assert read.isfinite().all()


@pytest.mark.parametrize("name", MEMBERS)
def test_no_memory_is_no_frames(name: str):
    block, query = built(name), features(2)
    assert torch.equal(block(query), block(query, features(2, 0)))
    assert torch.equal(block(query), block.read(block.prepare(query), {}))


@pytest.mark.parametrize("name", MEMBERS)
def test_memory_matters_where_it_is_read(name: str):
    block, query, clip = built(name), features(2), features(2, 2, seed=5)
    for index in range(2):
        changed = Features(clip.high.clone(), clip.low.clone())
        changed.high[:, index] += maps(2, HIGH, 5, 7, seed=9)
        changed.low[:, index] += maps(2, LOW, 9, 6, seed=9)
        assert (difference(block(query, clip), block(query, changed)) > 1e-5) == block.reads_memory
    assert (difference(block(query, clip), block(query)) > 1e-5) == block.reads_memory


@pytest.mark.parametrize("name", [name for name in READERS if name not in ORDERED])
def test_the_order_of_frames_does_not_matter(name: str):
    block, query, clip = built(name), features(2), features(2, 3, seed=5)
    assert difference(block(query, clip), block(query, picked(clip, [2, 0, 1]))) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in READERS if name not in ORDERED])
def test_blocks_that_look_for_content_do_not_see_where_in_memory_it_was(name: str):
    block, query, clip = built(name), features(2), features(2, 2, seed=5)
    remembered = block.encode(clip)
    moved = {key: each if key.endswith("likeness") else elsewhere(each) for key, each in remembered.items()}
    prepared = block.prepare(query)
    change = difference(block.read(prepared, moved), block.read(prepared, remembered))
    assert (change > 1e-3) == name.startswith(("psp", "criss_cross"))


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_of_frames_matters_where_slots_or_bins_differ(name: str):
    block, query, clip = built(name), features(2), features(2, 3, seed=5)
    assert difference(block(query, clip), block(query, picked(clip, [2, 0, 1]))) > 1e-5


@pytest.mark.parametrize(
    "name", [name for name in READERS if "memory only" in name or name in ("nonlocal", "criss_cross, separate")]
)
@pytest.mark.parametrize("count", [2, 5])
def test_equal_frames_in_memory_are_one_frame(name: str, count: int):
    block, query, clip = built(name), features(2), features(2, 1, seed=5)
    assert difference(block(query, clip), block(query, picked(clip, [0] * count))) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in (*FULL, "nonlocal, slots")])
def test_a_still_clip_is_an_image(name: str):
    block, query = built(name), features(2)
    still = Features(query.high[:, None].expand(-1, 3, -1, -1, -1), query.low[:, None].expand(-1, 3, -1, -1, -1))
    assert difference(block(query, still), block(query)) <= TOLERANCE


def test_criss_cross_of_one_frame_is_the_same_in_two_and_three_dimensions():
    query, clip = features(2), features(2, 2, seed=5)
    space, full = (
        CrissCrossConfig(mode=mode, channels=CHANNELS, recurrence=2).build(HIGH) for mode in ("space", "full")
    )
    randomize(space)
    full.load_state_dict(space.state_dict())
    space, full = space.double().eval(), full.double().eval()
    assert difference(space(query), full(query)) <= TOLERANCE
    assert difference(space(query), full(query, clip)) > 1e-5


def test_separate_criss_cross_without_its_time_line_is_the_one_in_space():
    separate, query = built("criss_cross, separate"), features(2)
    space = built("criss_cross, space")
    space.load_state_dict({key: each for key, each in separate.state_dict().items() if not key.startswith("time.")})
    torch.nn.init.zeros_(separate.time.gamma)
    assert difference(separate(query, features(2, 3, seed=5)), space(query)) <= TOLERANCE


def test_the_current_frame_weighs_more_with_its_learned_weight():
    block, query, clip = built("criss_cross, separate"), features(2), features(2, 3, seed=5)
    with torch.no_grad():
        block.time.current.fill_(50.0)
    assert difference(block(query, clip), block(query)) <= TOLERANCE


@pytest.mark.parametrize("name", READERS)
def test_gates_at_their_start_let_no_memory_through(name: str):
    """Not in blocks without a gate. An initialization of all layers by a model must not undo it."""
    block, query, clip = built(name), features(2), features(2, 2, seed=5)
    block.reset_parameters()
    gated = not name.startswith(("psp", "nonlocal")) or "residual" in name
    assert (difference(block(query, clip), block(query)) <= TOLERANCE) == gated


@pytest.mark.parametrize("name", [name for name in MEMBERS if name.startswith("criss_cross")])
def test_criss_cross_with_gamma_zero_is_the_identity(name: str):
    block = built(name)
    block.reset_parameters()
    line = maps(2, CHANNELS, 3, 4, 5)
    assert torch.equal(block.attention(line), line)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_stream_is_the_clip_frame_by_frame(name: str):
    block, clip, kept = built(name), features(1, 9), []
    for now in range(9):
        past = list(range(max(0, now - 3), now))
        memory = stack_frames(kept[-3:]) if kept else None
        read, remembered = block.step(frame(clip, now), memory)
        kept.append(remembered)
        assert difference(read, block(frame(clip, now), picked(clip, past))) <= TOLERANCE


@pytest.mark.parametrize("name", READERS)
def test_memory_may_be_kept_in_half_precision(name: str):
    block, query, clip = (
        built(name, dtype=torch.float32),
        features(2, dtype=torch.float32),
        features(2, 2, dtype=torch.float32),
    )
    halves = block.compact(block.encode(clip), torch.float16)
    read, exact = block.read(block.prepare(query), halves), block(query, clip)
    assert read.dtype == torch.float32
    assert difference(read, exact) <= 1e-2 * float(exact.detach().abs().max())


@pytest.mark.parametrize("name", ["dual", "dual+apnb+afnb"])
def test_the_likeness_of_channels_stays_in_float32(name: str):
    """Sums over places leave the range of half types."""
    block, clip = built(name, dtype=torch.float32), features(2, 2, dtype=torch.float32)
    kinds = {key: each.dtype for key, each in block.compact(block.encode(clip), torch.float16).items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert {key for key, each in block.encode(clip).items() if each.dtype == torch.float32} == set(block.exact)
    assert {key for key, kind in kinds.items() if kind == torch.float32} == set(block.exact)
    assert [key.rpartition(".")[2] for key in block.exact] == ["likeness"]


@pytest.mark.parametrize("name", MEMBERS)
def test_automatic_mixed_precision_changes_little(name: str):
    block, query, clip = (
        built(name, dtype=torch.float32),
        features(2, dtype=torch.float32),
        features(2, 2, dtype=torch.float32),
    )
    exact = block(query, clip)
    with torch.autocast("cpu", torch.bfloat16):
        read = block(query, clip)
    assert difference(read.float(), exact) <= 0.1 * float(exact.detach().abs().max())


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("count", [0, 5])
def test_every_parameter_has_a_part_in_training(name: str, count: int):
    """A parameter without a gradient stops distributed training. Slots of absent frames have none, by definition."""
    block, query, clip = built(name).train(), features(2), features(2, count, seed=5)
    block(query, clip).square().mean().backward()
    idle = [key for key, parameter in block.named_parameters() if parameter.grad is None]
    assert all("memory.encoders" in key for key in idle) if not count else not idle


@pytest.mark.parametrize("name", READERS)
def test_gradients_flow_into_memory(name: str):
    block, query, clip = built(name), features(2), features(2, 2, seed=5)
    clip.high.requires_grad_()
    clip.low.requires_grad_()
    block(query, clip).square().mean().backward()
    read = clip.low if name.startswith("afnb") else clip.high
    assert all(float(each.norm()) > 0 for each in read.grad.unbind(1))


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("way", ["fused", "chunked"])
def test_lean_ways_equal_the_definition_in_outputs_and_gradients(name: str, way: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attend, "SCORES", 100)
    found = []
    for each in (way, "plain"):
        block, query, clip = built(name), features(2), features(2, 2, seed=5)
        force(block, each)
        leaves = [query.high.requires_grad_(), clip.high.requires_grad_(), *block.parameters()]
        output = block(query, clip)
        found.append(
            [output, *torch.autograd.grad(output.square().sum(), leaves, materialize_grads=True, allow_unused=True)]
        )
    for lean, plain in zip(*found, strict=True):
        assert difference(lean, plain) <= 1e-9 * max(1.0, float(plain.detach().abs().max()))


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.numbers = max([self.numbers, *(each.untyped_storage().nbytes() // each.element_size() for each in made)])
        return result


def largest(block: TemporalAttention, *, trained: bool) -> int:
    query, clip = features(1, size=(20, 25), dtype=torch.float32), features(1, 3, size=(20, 25), dtype=torch.float32)
    with torch.set_grad_enabled(trained), Largest() as seen:
        output = block(query, clip)
        if trained:
            output.square().mean().backward()
    return seen.numbers


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_no_map_of_places_by_places_is_made(name: str, trained: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attend, "SCORES", 50_000)
    map_of_all, block = 500 * 3 * 500, built(name, dtype=torch.float32)
    assert largest(block, trained=trained) < map_of_all / 5
    force(block, "chunked")
    assert largest(block, trained=trained) < map_of_all / 5


@pytest.mark.parametrize("name", ["nonlocal", "nonlocal_residual", "dual"])
def test_the_plain_way_does_make_the_map(name: str):
    block = built(name, dtype=torch.float32)
    force(block, "plain")
    assert largest(block, trained=False) >= 500 * 3 * 500


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("key_width", "value_width"), [(3, 5), (5, 3), (8, 8), (1, 16)])
def test_keys_and_values_may_be_of_any_width(way: str, key_width: int, value_width: int):
    query, key, value = maps(2, 4, key_width), maps(2, 7, key_width, seed=3), maps(2, 7, value_width, seed=4)
    shares = (0.3 * query @ key.mT).softmax(-1)
    assert difference(WAYS[way](query, key, value, scale=0.3), shares @ value) <= TOLERANCE


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_costs_are_those_that_are_counted(name: str, count: int):
    block, query, clip = built(name).requires_grad_(False), features(1), features(1, count)
    force(block, "plain")
    extent = Extent(high=(5, 7), low=(9, 6))
    memory = block.encode(clip) if count else None
    for streaming, run in ((False, lambda: block(query, clip)), (True, lambda: block.step(query, memory))):
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == 2 * block.macs(extent, frames=count, streaming=streaming)


def test_frames_sampled_one_by_one_are_cells_in_space_and_time():
    clip = maps(2, 5, 3, 7, 9)
    sampled = torch.stack([sample(each, (1, 4)) for each in clip.unbind(1)], dim=1)
    for bins in (1, 2, 5):
        boxes = [F.adaptive_avg_pool3d(clip.transpose(1, 2), (bins, side, side)).flatten(3) for side in (1, 4)]
        assert difference(bin_frames(sampled, bins), torch.cat(boxes, dim=3).transpose(1, 2)) <= TOLERANCE
    assert bin_frames(sampled, None) is sampled
    assert bin_frames(sampled, 7) is sampled


def test_fewer_frames_than_slots_take_the_newest_slots_and_more_are_refused():
    block, query, clip = built("nonlocal, slots"), features(2), features(2, 6)
    for encoder in list(block.memory.encoders)[:3]:
        encoder.requires_grad_(False)
        encoder.key[0][0].weight.fill_(torch.nan)
    assert block(query, picked(clip, [4, 5])).isfinite().all()
    assert not block(query, picked(clip, [3, 4, 5])).isfinite().all()
    with pytest.raises(ValueError, match="6 frames for 5 memory slots"):
        block(query, clip)


def test_what_is_remembered_is_as_small_as_the_block_allows():
    sizes = {
        name: sum(each[0].numel() for each in built(name).encode(features(1, size=(40, 50))).values())
        for name in ("nonlocal", "apnb", "afnb", "psp", "dual", "criss_cross, space")
    }
    cells = 1 + 9 + 16
    assert sizes == {
        "nonlocal": 2000 * 7, "apnb": cells * 7, "afnb": cells * 7, "psp": 50 * HIGH,
        "dual": 2000 * (3 + CHANNELS) + CHANNELS**2, "criss_cross, space": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["afnb", "apnb+afnb", "dual+apnb+afnb"])
def test_blocks_of_two_stages_say_so(kind: str):
    config = TypeAdapter(AttentionConfig).validate_python({"kind": kind})
    assert config.reads_low
    with pytest.raises(ModelError, match=f"attention `{kind.replace('+', '.')}` fuses the encoder's last two stages"):
        config.build(HIGH)
    with pytest.raises(ValueError, match=r"expected `Features.low`"):
        built(kind)(Features(features(1).high))


@pytest.mark.parametrize("kind", ["nonlocal_residual", "apnb", "afnb", "criss_cross", "dual", "apnb+afnb"])
def test_the_kernel_that_narrows_is_as_wide_as_its_setting(kind: str):
    sizes = []
    for side in (1, 3):
        config = TypeAdapter(AttentionConfig).validate_python({"kind": kind, "channels": 16, "narrow_kernel": side})
        sizes.append(sum(parameter.numel() for parameter in config.build(HIGH, LOW).parameters()))
    narrowed = {"afnb": 1, "dual": 2}.get(kind, 1) * HIGH * 16
    assert sizes[1] - sizes[0] == 8 * narrowed


@pytest.mark.parametrize("kind", ["psp", "apnb", "afnb", "apnb+afnb", "dual+apnb+afnb"])
def test_a_pyramid_has_a_grid(kind: str):
    with pytest.raises(ValidationError, match=r"pool_sizes\s+Tuple should have at least 1 item"):
        TypeAdapter(AttentionConfig).validate_python({"kind": kind, "pool_sizes": ()})


def test_an_option_without_effect_is_refused():
    with pytest.raises(ValidationError, match="`scaled` has no effect without the softmax"):
        TypeAdapter(AttentionConfig).validate_python({"kind": "nonlocal_residual", "softmax": False, "scaled": True})
