"""What attention blocks cost at real sizes: the published formulas, and the table in docs/temporal-memory.md."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from hfseg.models.attention import AttentionConfig, Extent, Features, TemporalAttention
from hfseg.models.attention.afnb import Afnb
from hfseg.models.attention.apnb import Apnb
from hfseg.models.attention.dual import PositionAttention
from hfseg.models.attention.layers import weights_in
from hfseg.models.attention.lines import CrissCross
from hfseg.models.attention.non_local import NonLocal
from hfseg.models.attention.psp import Psp

PAGE = Path(__file__).parents[1] / "docs" / "temporal-memory.md"
CAMVID, CITYSCAPES = (80, 4), (97, 2)
"""Side of the map at stride 8, and frames in memory: crops of 640 and 769 pixels."""
ENCODERS = {"ResNet-50": (2048, 1024), "ResNet-18": (512, 256)}
BLOCKS: dict[str, dict[str, Any]] = {
    "`nonlocal`": {"kind": "nonlocal"},
    "`nonlocal_residual`": {"kind": "nonlocal_residual"},
    "`psp`": {"kind": "psp"},
    "`apnb`": {"kind": "apnb"},
    "`afnb`": {"kind": "afnb"},
    "`criss_cross`, space": {"kind": "criss_cross", "mode": "space"},
    "`criss_cross`, separate": {"kind": "criss_cross", "mode": "separate"},
    "`criss_cross`, full": {"kind": "criss_cross", "mode": "full"},
    "`dual`": {"kind": "dual"},
    "`apnb+afnb`": {"kind": "apnb+afnb"},
    "`dual+apnb+afnb`": {"kind": "dual+apnb+afnb"},
}


def extent(side: int) -> Extent:
    return Extent(high=(side, side), low=(side, side))


def read_alone(block: TemporalAttention, side: int, frames: int) -> int:
    """What reading one more frame costs, so many times."""
    more, less = (block.recall_macs(extent(side), frames=count) for count in (frames + 1, 1))
    return more - less


@pytest.mark.parametrize(("case", "column"), [(CAMVID, 0), (CITYSCAPES, 1)])
def test_published_formulas_give_the_published_costs(case: tuple[int, int], column: int):
    """In 10^9 multiply-adds, of the original modules, whose counts equal PyTorch's."""
    side, frames = case
    n = side**2
    with torch.device("meta"):
        tma = NonLocal(2048, 512, key_channels=64, value_channels=256)
        apnb = Apnb(512, 512, key_channels=256, value_channels=256, narrow_kernel=None)
        afnb, psp = Afnb(2048, 1024, 512, key_channels=256, value_channels=256), Psp(2048, 512)
        lines, position = CrissCross(512), PositionAttention(512)
    size = extent(side)
    found = {
        "encoders": (frames + 1) * tma.remember_macs(size),
        "read": read_alone(tma, side, frames),
        "bottleneck": n * weights_in(tma.bottleneck),
        # The original projects keys, and again queries by the same weights.
        "apnb": apnb.macs(size, frames=0) + apnb.attention.query_macs(n),
        "afnb": afnb.macs(size, frames=0) - n * weights_in(afnb.narrow),
        "criss_cross": 2 * lines.macs((side, side)),
        "criss_cross, 3-D": 3 * lines.macs((side, side), frames=frames + 1),
        "position": n * weights_in(position) + n**2 * (64 + 512),
        "channel": 2 * n * 512**2,
        "psp": psp.macs(size, frames=0),
    }
    published = {
        "encoders": (41.0, 36.2), "read": (52.4, 56.7), "bottleneck": (15.1, 22.2), "apnb": (7.1, 10.4),
        "afnb": (64.1, 94.3), "criss_cross": (5.4, 8.3), "criss_cross, 3-D": (40.6, 37.4), "position": (25.7, 54.1),
        "channel": (3.4, 4.9), "psp": (120.8, 177.6),
    }  # fmt: skip
    assert {name: round(macs / 1e9, 1) for name, macs in found.items()} == {
        name: row[column] for name, row in published.items()
    }


def largest_scores(kind: str, side: int, frames: int) -> int:
    """Scores of the largest map that the definition has."""
    n, attended = side**2, frames if kind == "nonlocal" else frames + 1
    if kind == "psp":
        return 0
    if kind == "criss_cross, full":
        return attended * n * (2 * side + attended)
    if kind.startswith("criss_cross"):
        return n * 2 * side
    if "nonlocal" in kind or "dual" in kind:
        return attended * n**2
    return attended * n * 110


def row(name: str, side: int, frames: int) -> str:
    """One row of the table: 10^6 parameters, 10^9 multiply-adds of a clip and of a frame of a stream, MB of float32."""
    with torch.device("meta"):
        blocks = [TypeAdapter(AttentionConfig).validate_python(BLOCKS[name]).build(*each) for each in ENCODERS.values()]
        high, low = (torch.empty(1, channels, side, side) for channels in ENCODERS["ResNet-50"])
    millions = " / ".join(f"{sum(each.numel() for each in block.parameters()) / 1e6:.1f}" for block in blocks)
    clip, stream = (
        " / ".join(f"{block.macs(extent(side), frames=frames, streaming=streaming) / 1e9:.1f}" for block in blocks)
        for streaming in (False, True)
    )
    kept = sum(each.numel() for each in blocks[0].encode(Features(high, low)).values())
    scores = largest_scores(name.replace("`", ""), side, frames)
    return f"| {name} | {millions} | {clip} | {stream} | {4 * kept / 1e6:.2f} | {4 * scores / 1e6:,.1f} |"


@pytest.mark.parametrize(("side", "frames"), [CAMVID, CITYSCAPES])
def test_the_table_of_costs_is_fresh(side: int, frames: int):
    page = PAGE.read_text(encoding="utf-8")
    missing = [each for each in (row(name, side, frames) for name in BLOCKS) if each not in page]
    assert not missing, "\n" + "\n".join(missing)


@pytest.mark.parametrize("channels", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize(("side", "frames"), [CAMVID, CITYSCAPES])
def test_criss_cross_costs_least_and_pooling_less_than_reading_all_places(
    side: int, frames: int, channels: tuple[int, int]
):
    with torch.device("meta"):
        blocks = {
            name: TypeAdapter(AttentionConfig).validate_python(settings).build(*channels)
            for name, settings in BLOCKS.items()
        }
    image = {name: block.macs(extent(side), frames=0) for name, block in blocks.items()}
    clip = {name: block.macs(extent(side), frames=frames) for name, block in blocks.items()}
    stream = {name: block.macs(extent(side), frames=frames, streaming=True) for name, block in blocks.items()}
    assert min(image, key=image.__getitem__) in ("`criss_cross`, space", "`criss_cross`, full")
    assert min(clip, key=clip.__getitem__) == "`criss_cross`, space"
    assert 2 * clip["`apnb`"] < clip["`nonlocal`"]
    assert 4 * stream["`apnb`"] < stream["`nonlocal`"]
