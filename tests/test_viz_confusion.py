import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from hfseg.labels import LabelSpace
from hfseg.viz.confusion import MAX_CELLS, confusion_bars, confusion_map, largest_confusions, row_shares
from hfseg.viz.style import inline_svg, write_png
from hfseg.viz.worst import worst_heading, worst_picture

NAMES = ["road", "train", "fence"]
MATRIX = np.array([[95, 0, 5], [0, 0, 0], [40, 0, 60]])


def many(classes=150, seed=0):
    """A matrix of many classes, the first ones frequent, each mostly right."""
    rng = np.random.default_rng(seed)
    pixels = 10**7 // np.arange(1, classes + 1)
    wrong = rng.dirichlet(np.full(classes, 0.05), classes) * 0.3
    return (pixels[:, None] * (wrong + 0.7 * np.eye(classes))).astype(np.int64)


FIGURES = {
    "map": lambda: confusion_map(MATRIX, NAMES),
    "map of one class": lambda: confusion_map(np.array([[7]]), ["road"]),
    "map of 11": lambda: confusion_map(many(11), [f"class {i}" for i in range(11)]),
    "map of 150": lambda: confusion_map(many(), [f"class {i}" for i in range(150)]),
    "map without a pixel": lambda: confusion_map(np.zeros((3, 3), dtype=np.int64), NAMES),
    "bars": lambda: confusion_bars(MATRIX, NAMES),
    "bars of nothing": lambda: confusion_bars(np.eye(3, dtype=np.int64), NAMES),
    "bars of one": lambda: confusion_bars(MATRIX, NAMES, number=1),
    "bars of 150": lambda: confusion_bars(many(), [f"class {i}" for i in range(150)]),
}


@pytest.mark.many
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_becomes_a_picture_and_a_drawing_and_leaves_the_style_alone(name, tmp_path):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert figure.axes[0].get_xlabel()
    assert figure.axes[0].get_ylabel()
    svg = inline_svg(figure, "plot", described=figure.get_suptitle())
    write_png(figure, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    assert svg.startswith("<svg ")
    assert "fill: var(--muted)" in svg
    with Image.open(tmp_path / "plot.png") as png:
        assert png.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("figure", "title"),
    [
        ("map", "Most confused: 40.00 % of fence is predicted as road"),
        ("map of one class", "No class is taken for another"),
        ("map without a pixel", "No class is taken for another"),
        ("bars", "The 2 largest confusions make 100.00 % of the wrong pixels"),
        ("bars of one", "The largest confusion makes 88.89 % of the wrong pixels"),
        ("bars of nothing", "No class is taken for another"),
    ],
)
def test_titles_say_the_finding(figure, title):
    assert FIGURES[figure]().get_suptitle().replace("\n", " ") == title


def test_confusions_are_listed_by_their_share_of_the_label():
    assert largest_confusions(MATRIX, NAMES, 5) == [("fence", "road", 0.4, 40), ("road", "fence", 0.05, 5)]
    assert largest_confusions(MATRIX, NAMES, 1)[0]._asdict() == {
        "label": "fence",
        "pred": "road",
        "share": 0.4,
        "pixels": 40,
    }


def test_classes_of_a_few_pixels_are_not_called_confused():
    matrix = np.array([[10_000, 0, 50], [9, 0, 0], [0, 0, 500]])
    assert [found.label for found in largest_confusions(matrix, NAMES, 5)] == ["road"]


def test_largest_confusions_equal_a_sorted_list_of_all():
    matrix = many(20)
    cells = [(matrix[y, p] / matrix[y].sum(), matrix[y, p], y, p) for y in range(20) for p in range(20) if y != p]
    wanted = sorted((cell for cell in cells if cell[1]), reverse=True)[:30]
    found = largest_confusions(matrix, [str(i) for i in range(20)], 30)
    assert [(int(row.label), int(row.pred), row.pixels) for row in found] == [(y, p, n) for _, n, y, p in wanted]


def test_bars_say_both_names_the_share_and_the_pixels():
    axes = FIGURES["bars"]().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["road → fence", "fence → road"]
    assert [text.get_text() for text in axes.texts] == ["5.00 %, 5 px", "40.00 %, 40 px"]


def test_cells_of_few_classes_say_share_and_pixels_of_more_the_share_and_of_many_nothing():
    assert "40 %\n40" in [text.get_text() for text in FIGURES["map"]().axes[0].texts]
    assert {text.get_text() for text in FIGURES["map of 11"]().axes[0].texts} >= {"70"}
    assert not FIGURES["map of 150"]().axes[0].texts


def test_of_many_classes_the_confused_ones_have_rows_and_no_pixel_is_lost():
    matrix = np.diag(np.full(60, 1000))
    matrix[57, 3] = 400
    axes = confusion_map(matrix, [f"class {i}" for i in range(60)]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == MAX_CELLS
    assert {"class 3", "class 57"} < set(names)
    assert names[-1] == "21 other classes"
    shown = np.asarray(axes.collections[0].get_array()).reshape(MAX_CELLS, -1)
    np.testing.assert_allclose(shown.sum(axis=1), 100)
    assert shown[names.index("class 57"), 3] == pytest.approx(100 * 400 / 1400)


def test_rows_are_normalised_and_empty_ones_stay_empty():
    np.testing.assert_allclose(row_shares(MATRIX).sum(axis=1), [1, 0, 1])


def test_class_names_are_texts_and_never_markup_or_formulas():
    for draw in (confusion_map, confusion_bars):
        svg = inline_svg(draw(MATRIX, ["<b>&", "e", "$x_1$"]), "plot", described="")
        assert "<b>" not in svg
        assert "&lt;b&gt;&amp;" in svg
        assert "$x_1$" in svg


SPACE = LabelSpace.from_names(["background", "coin"])


@pytest.mark.parametrize("size", [(8, 8), (48, 64), (900, 1500)])
def test_a_bad_image_is_shown_below_its_name_and_score(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    pred, labels = (rng.choice([0, 1, 255], size).astype(np.uint8) for _ in range(2))
    heading = worst_heading("a/0001", 0.1234, rank=1, num_images=2000, protocol="whole image, short side 512")
    picture = worst_picture(image, pred % 2, labels, SPACE, heading=heading)
    bare = worst_picture(image, pred % 2, labels, SPACE, heading=("", ""))
    assert picture.mode == "RGB"
    assert picture.width == bare.width
    assert np.asarray(picture)[:70].min() < 100
    assert np.asarray(bare)[:70].min() == 255
    np.testing.assert_array_equal(np.asarray(picture)[-200:], np.asarray(bare)[-200:])


def test_the_heading_says_which_image_among_how_many_and_by_which_protocol():
    heading = worst_heading("a/0001", 0.1234, rank=1, num_images=2000, protocol="whole image")
    assert heading == ("a/0001: mIoU 12.34 %", "worst of 2,000 images, each scored alone; whole image")
    assert worst_heading("b", 0.2, rank=3, num_images=9, protocol="x")[1].startswith("number 3 from the worst of 9")
