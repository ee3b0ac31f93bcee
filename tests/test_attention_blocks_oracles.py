"""Every attention block equals its definition, written as loops over places, frames, cells and channels."""

from collections.abc import Callable
from math import ceil, floor, sqrt

import pytest
import torch
from attention_members import MEMBERS, built, features, frame
from torch import Tensor
from torch.nn import functional as F

from hfseg.models.attention import Features, TemporalAttention

Frames = list[Features]


def average(
    query: Tensor, keys: list[Tensor], values: list[Tensor], *, scale: float = 1.0, shares: list[float] | None = None
) -> Tensor:
    """Average values in the shares w exp(scale query . key)."""
    weights = [
        (1.0 if shares is None else shares[i]) * torch.exp(scale * (query * key).sum()) for i, key in enumerate(keys)
    ]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0) / sum(weights)


def everywhere(maps: Tensor, read: Callable[[int, int, int], Tensor]) -> Tensor:
    """Fill a map place by place."""
    rows = [
        [torch.stack([read(b, y, x) for x in range(maps.shape[-1])], -1) for y in range(maps.shape[-2])]
        for b in range(maps.shape[0])
    ]
    return torch.stack([torch.stack(row, -2) for row in rows])


def all_places(query: Tensor, keys: list[Tensor], values: list[Tensor], scale: float = 1.0) -> Tensor:
    """Every place of the query reads every place of all frames."""

    def read(b: int, y: int, x: int) -> Tensor:
        places = [(i, v, u) for i, key in enumerate(keys) for v in range(key.shape[-2]) for u in range(key.shape[-1])]
        found = [(keys[i][b, :, v, u], values[i][b, :, v, u]) for i, v, u in places]
        return average(query[b, :, y, x], *map(list, zip(*found, strict=True)), scale=scale)

    return everywhere(query, read)


def spans(length: int, count: int) -> list[range]:
    return [range(floor(i * length / count), ceil((i + 1) * length / count)) for i in range(count)]


def boxes(frames: list[Tensor], b: int, grids: tuple[int, ...], bins: int | None) -> list[Tensor]:
    """Averages over boxes in space and time."""
    found = []
    times = spans(len(frames), min(len(frames), bins or len(frames)))
    for time in times:
        for side in grids:
            for ys in spans(frames[0].shape[-2], side):
                for xs in spans(frames[0].shape[-1], side):
                    places = [frames[i][b, :, y, x] for i in time for y in ys for x in xs]
                    found.append(torch.stack(places).mean(0))
    return found


def non_local(block, query: Features, frames: Frames) -> Tensor:
    key, value = block.query(query.high)
    encoders = (
        list(block.memory.encoders)[-len(frames) :]
        if hasattr(block.memory, "encoders")
        else [block.memory] * len(frames)
    )
    encoded = [encoder(each.high) for encoder, each in zip(encoders, frames, strict=True)]
    read = all_places(key, [k for k, _ in encoded], [v for _, v in encoded], block.attend.scale)
    return block.bottleneck(torch.cat([value, read], 1))


def residual(block, query: Features, frames: Frames) -> Tensor:
    attention, narrow = block.attention, [block.narrow(each.high) for each in frames]
    maps = block.narrow(query.high)
    queries, keys, values = attention.query(maps), [*map(attention.key, narrow)], [*map(attention.value, narrow)]
    if attention.softmax:
        read = all_places(queries, keys, values, 1 / sqrt(keys[0].shape[1]))
    else:
        count = len(keys) * keys[0].shape[-2] * keys[0].shape[-1]

        def sums(b: int, y: int, x: int) -> Tensor:
            return sum(
                (queries[b, :, y, x] * key[b, :, v, u]).sum() * value[b, :, v, u] / count
                for key, value in zip(keys, values, strict=True)
                for v in range(key.shape[-2])
                for u in range(key.shape[-1])
            )

        read = everywhere(queries, sums)
    return maps + attention.norm(attention.project(read))


def psp(block, query: Features, frames: Frames) -> Tensor:
    pyramid = []
    for side, narrow in zip(block.grids, block.narrow, strict=True):
        grid = torch.stack([
            torch.stack(boxes([each.high for each in frames], b, (side,), 1)).T.unflatten(1, (side, side))
            for b in range(len(query.high))
        ])  # fmt: skip
        pyramid.append(F.interpolate(narrow(grid), query.high.shape[-2:], mode="bilinear"))
    return block.bottleneck(torch.cat([query.high, *pyramid], 1))


def asymmetric(attention, high: Tensor, lows: list[Tensor]) -> Tensor:
    queries = (attention.query or attention.key)(high)
    keys, values = [*map(attention.key, lows)], [*map(attention.value, lows)]
    sampled = [
        [boxes(each, b, attention.grids, attention.time_bins) for each in (keys, values)] for b in range(len(high))
    ]
    read = everywhere(
        queries, lambda b, y, x: average(queries[b, :, y, x], *sampled[b], scale=1 / sqrt(queries.shape[1]))
    )
    return attention.fuse(torch.cat([attention.context(read), high], 1))


def apnb(block, query: Features, frames: Frames) -> Tensor:
    return asymmetric(block.attention, block.narrow(query.high), [block.narrow(each.high) for each in frames])


def afnb(block, query: Features, frames: Frames) -> Tensor:
    return block.narrow(asymmetric(block.attention, query.high, [each.low for each in frames]))


def lines(attention, frames: list[Tensor]) -> list[Tensor]:
    """One criss-cross pass over all frames: every place reads those that share two of its three coordinates."""
    queries, keys, values = ([*map(each, frames)] for each in (attention.query, attention.key, attention.value))
    height, width = frames[0].shape[-2:]

    def passed(t: int) -> Tensor:
        def read(b: int, y: int, x: int) -> Tensor:
            line = {(t, y, u) for u in range(width)} | {(t, v, x) for v in range(height)}
            line |= {(s, y, x) for s in range(len(frames))}
            assert len(line) == height + width + len(frames) - 2
            found = [(keys[s][b, :, v, u], values[s][b, :, v, u]) for s, v, u in sorted(line)]
            return average(queries[t][b, :, y, x], *map(list, zip(*found, strict=True)))

        return attention.gamma * everywhere(frames[t], read) + frames[t]

    return [passed(t) for t in range(len(frames))]


def in_space(block, each: Features) -> Tensor:
    maps = block.narrow(each.high)
    for _ in range(block.recurrence):
        (maps,) = lines(block.attention, [maps])
    return maps


def space(block, query: Features, frames: Frames) -> Tensor:
    return in_space(block, query)


def separate(block, query: Features, frames: Frames) -> Tensor:
    hidden, time = [in_space(block, each) for each in frames], block.time
    queries, keys, values = time.query(hidden[-1]), [*map(time.key, hidden)], [*map(time.value, hidden)]
    past = len(frames) - 1
    shares = [1 / past for _ in range(past)] + [float(time.current.exp())]
    read = everywhere(
        queries,
        lambda b, y, x: average(
            queries[b, :, y, x], [k[b, :, y, x] for k in keys], [v[b, :, y, x] for v in values], shares=shares
        ),
    )
    return time.gamma * read + hidden[-1]


def full(block, query: Features, frames: Frames) -> Tensor:
    maps = [block.narrow(each.high) for each in frames]
    for _ in range(block.recurrence):
        maps = lines(block.attention, maps)
    return maps[-1]


def dual(block, query: Features, frames: Frames) -> Tensor:
    position, channel = block.position, block.channel
    places, planes = block.enter_position(query.high), block.enter_channel(query.high)
    others = [block.enter_position(each.high) for each in frames]
    read = all_places(position.query(places), [*map(position.key, others)], [*map(position.value, others)])
    mixed = torch.zeros_like(planes)
    for b in range(len(planes)):
        seen = [block.enter_channel(each.high)[b] for each in frames]
        for i in range(planes.shape[1]):
            alike = [sum((each[i] * each[j]).sum() for each in seen) / len(seen) for j in range(planes.shape[1])]
            weights = torch.stack([max(alike) - each for each in alike]).exp()
            mixed[b, i] = sum(w * plane for w, plane in zip(weights, planes[b], strict=True)) / weights.sum()
    return block.leave_position(position.gamma * read + places) + block.leave_channel(channel.gamma * mixed + planes)


def composition(block, query: Features, frames: Frames) -> Tensor:
    def fused(each: Features) -> Features:
        return Features(block.narrow(asymmetric(block.fusion, each.high, [each.low])))

    parts = {"apnb": apnb, "dual": dual}
    return sum(parts[name](part, fused(query), [*map(fused, frames)]) for name, part in block.blocks.items())


ORACLES = {
    "nonlocal": non_local, "nonlocal_residual": residual, "psp": psp, "apnb": apnb, "afnb": afnb, "dual": dual,
    "criss_cross, space": space, "criss_cross, separate": separate, "criss_cross, full": full,
    "apnb+afnb": composition, "dual+apnb+afnb": composition,
}  # fmt: skip


def oracle(name: str) -> Callable[[TemporalAttention, Features, Frames], Tensor]:
    return ORACLES[max((key for key in ORACLES if name.startswith(key)), key=len)]


def test_every_kind_has_an_oracle():
    assert {key.partition(",")[0] for key in ORACLES} == {settings["kind"] for settings in MEMBERS.values()}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize(("count", "size"), [(0, (3, 4)), (1, (4, 3)), (3, (3, 3))])
def test_a_block_is_what_its_definition_says(name: str, count: int, size: tuple[int, int]):
    block, query = built(name), features(2, size=size, low_size=(5, 3))
    clip = features(2, count, size=size, low_size=(5, 3), seed=7)
    frames = [frame(clip, index) for index in range(count)]
    if block.includes_current or not frames:
        frames.append(query)
    with torch.no_grad():
        found, wanted = block(query, clip), oracle(name)(block, query, frames)
    assert float((found - wanted).abs().max()) <= 1e-10 * max(1.0, float(wanted.abs().max()))
