"""Grids of heads: cells lie where they are, colours mean what is said, and files come out of images and clips."""

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hfseg.engine.inference import WholeConfig
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter, UperNetModelConfig
from hfseg.recipes.explain.attention import AttentionConfig, look, run_attention
from hfseg.recipes.explain.opened import Opened
from hfseg.viz import GifStrip, HeadRow, head_grid

LABELS = LabelSpace.from_names(["road", "car", "sky"])
DINAT = {
    "depths": [2, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2], "kernel_size": 3,
    "dilations": [[1, 2], [1], [1], [1]],
}  # fmt: skip
PANEL = 240
"""Side of a panel whose picture is square."""


def is_colored(pixel: np.ndarray) -> bool:
    return bool(np.ptp(pixel.astype(int)) > 30)


def panel(picture: Image.Image, column: int, *, top: int) -> np.ndarray:
    """The panel of a column, 0 for that of the query, below the first title."""
    left = 8 + column * (PANEL + 8)
    return np.asarray(picture.crop((left, top, left + PANEL, top + PANEL)))


def row_of(weights: np.ndarray, *, cell: float, query: tuple[float, float, float, float]) -> HeadRow:
    captions = tuple(("a", "b") for _ in weights)
    return HeadRow("title", weights.astype(np.float32), (cell, cell), query, captions)


def test_cells_are_coloured_where_they_are_and_nothing_between_them():
    weights = np.full((1, 8, 8), np.nan)
    weights[0, ::2, ::2] = np.linspace(0, 1, 16).reshape(4, 4)
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    drawn = head_grid(image, [row_of(weights, cell=8.0, query=(56.0, 56.0, 64.0, 64.0))], heading=["one"])
    heads = panel(drawn, 1, top=36 + 20)
    for row in range(8):
        for column in range(8):
            middle = heads[row * 30 + 15, column * 30 + 15]
            if (row, column) != (7, 7):  # the query's own mark
                assert is_colored(middle) == (row % 2 == 0 and column % 2 == 0), (row, column)
    bright = [int(heads[30 * r + 15, 30 * c + 15].astype(int).sum()) for r in range(0, 8, 2) for c in range(0, 8, 2)]
    assert bright == sorted(bright)
    assert drawn.width % 2 == 0
    assert drawn.height % 2 == 0


def test_a_small_neighborhood_is_magnified_and_framed():
    weights = np.full((1, 64, 64), np.nan)
    weights[0, 30:33, 30:33] = 1.0
    image = np.full((256, 256, 3), 90, dtype=np.uint8)
    drawn = head_grid(image, [row_of(weights, cell=4.0, query=(124.0, 124.0, 128.0, 128.0))], heading=["one"])
    heads = panel(drawn, 1, top=56)
    share = np.mean([is_colored(pixel) for pixel in heads.reshape(-1, 3)])
    assert 0.5 < share < 0.75  # 1 / 1.25 of both sides
    framed = panel(drawn, 0, top=56)
    assert (framed == 255).all(2).any()


@pytest.mark.parametrize("shared", [False, True])
def test_a_scale_is_that_of_the_head_or_of_the_block(shared: bool):
    weights = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 0.1)])
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    row = row_of(weights, cell=16.0, query=(0.0, 0.0, 16.0, 16.0))
    drawn = head_grid(image, [row], heading=["one"], shared_scale=shared)
    one, other = (panel(drawn, column, top=56)[200, 200] for column in (1, 2))
    assert (one.tolist() != other.tolist()) == shared


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs blocks"):
        head_grid(np.zeros((8, 8, 3), np.uint8), [], heading=["one"])


def test_a_gif_holds_few_frames_spread_over_the_clip(tmp_path: Path):
    strip = GifStrip(max_frames=4, width_px=16)
    for number in range(23):
        strip.add(Image.new("RGB", (32, 32), (10 * number, 0, 0)))
    strip.save(tmp_path / "a.gif", frame_s=Fraction(1, 50))
    with Image.open(tmp_path / "a.gif") as made:
        shown = []
        for frame in range(made.n_frames):
            made.seek(frame)
            shown.append(round(made.convert("RGB").getpixel((3, 3))[0] / 10))
        assert made.size == (16, 16)
        assert made.info["duration"] == 160
    assert shown == [0, 8, 16]
    with pytest.raises(ValueError, match="needs frames"):
        GifStrip(max_frames=4, width_px=16).save(tmp_path / "b.gif", frame_s=Fraction(1))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    config = UperNetModelConfig(
        backbone="dinat", pretrained="none", overrides=DINAT, hidden_size=16, auxiliary_channels=8
    )
    return config.build(LABELS).eval()


@pytest.fixture
def opened(segmenter: Segmenter, tmp_path: Path) -> Opened:
    return Opened(segmenter, LABELS, WholeConfig(short_side=96), tmp_path / "explain", lambda _text: None)


def picture_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_gives_a_picture_and_a_table_in_its_own_pixels(opened: Opened):
    written = run_attention(
        AttentionConfig(point=(60, 100), blocks="all"), opened, iter([("in/a", picture_of(192, 256))])
    )
    assert [path.relative_to(opened.output).as_posix() for path in written] == [
        "in/a-attention.jpg", "in/a-attention.csv"
    ]  # fmt: skip
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    assert [(row["stage"], row["block"], row["head"], row["dilation"]) for row in rows[:2]] == [
        ("1", "1", "1", "1"), ("1", "2", "1", "2")
    ]  # fmt: skip
    assert len(rows) == 2 + 1 + 2 + 2
    # The model sees half the size: cells of 4 px are 8 px of the image, and the furthest of 3 x 3 is one place away.
    assert rows[0]["reach_px"] == f"{8 * 2**0.5:.1f}"
    assert rows[1]["reach_px"] == f"{2 * 8 * 2**0.5:.1f}"
    assert 0 < float(rows[0]["mean_distance_px"]) < float(rows[0]["reach_px"])


def test_the_query_is_the_cell_of_the_point_as_the_model_sees_it(opened: Opened):
    looked = look(AttentionConfig(point=(255, 0), stages=(1, 4)), opened, picture_of(192, 256))
    assert looked.seen == (96, 128)
    assert looked.scale == (2.0, 2.0)
    assert [found.stage for found in looked.maps] == [1, 4]
    assert [found.query for found in looked.maps] == [(0, 31), (0, 3)]
    assert looked.maps[0].block == 2  # the last of its stage


def test_an_image_without_the_point_is_named_and_skipped(opened: Opened):
    images = [("small", picture_of(96, 96)), ("large", picture_of(192, 256))]
    written = run_attention(AttentionConfig(point=(200, 100), stages=(4,)), opened, iter(images))
    assert [path.name for path in written] == ["large-attention.jpg", "large-attention.csv"]
    assert opened.skipped == ["small"]
    with pytest.raises(DataError, match="point 200,100 lies outside an image of 96 x 96 pixels"):
        run_attention(AttentionConfig(point=(200, 100)), opened, iter(images[:1]))


@pytest.mark.slow
def test_a_clip_gives_a_film_and_a_gif(opened: Opened, tmp_path: Path):
    av = pytest.importorskip("av")
    from hfseg.video import ImageSequence, VideoFile

    for number in range(5):
        Image.fromarray(np.roll(picture_of(96, 128), number, axis=0)).save(tmp_path / f"{number}.png")
    clip = ImageSequence(
        tmp_path, sorted(tmp_path.glob("*.png")), rate=Fraction(10), read=lambda path: np.asarray(Image.open(path))
    )
    film, strip = run_attention(AttentionConfig(every=2, stages=(3, 4), gif_frames=2), opened, clip)
    assert film.suffix == ".mp4"
    assert strip.suffix == ".gif"
    made = VideoFile(film)
    assert [frame.pts * made.time_base for frame in made.frames()] == [0, Fraction(1, 5), Fraction(2, 5)]
    with Image.open(strip) as moving:
        assert moving.n_frames == 2
    assert av.__name__ == "av"
