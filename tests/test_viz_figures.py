import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hfseg.viz.classes import iou_bars
from hfseg.viz.curves import accuracy_curves, iou_curve, learning_rate_curve, loss_curves, smoothed
from hfseg.viz.style import inline_svg, write_png

TRAIN = [{"event": "train", "step": step, "lr": 1e-4 / step, "loss": 2.0 / step} for step in range(1, 41)]
VALIDATIONS = [
    {
        "event": "validation",
        "step": step,
        "loss": 1.0 / step,
        "mean_iou": iou,
        "mean_accuracy": iou + 0.1,
        "overall_accuracy": iou + 0.2,
    }
    for step, iou in ((10, 0.3), (20, 0.7132), (30, 0.6))
]
CLASSES = [
    {"id": 0, "name": "road", "color": [128, 64, 128], "iou": 0.9, "accuracy": 0.95, "state": "ok"},
    {"id": 1, "name": "train", "color": [0, 80, 100], "iou": None, "accuracy": None, "state": "absent"},
    {"id": 2, "name": "fence", "color": [64, 64, 128], "iou": 0.0, "accuracy": 0.0, "state": "never predicted"},
]
FIGURES = {
    "loss": lambda: loss_curves(TRAIN + VALIDATIONS),
    "loss without validation": lambda: loss_curves(TRAIN),
    "loss of one step": lambda: loss_curves(TRAIN[:1]),
    "mIoU": lambda: iou_curve(VALIDATIONS, baseline=("road", 0.2)),
    "mIoU of one validation": lambda: iou_curve(VALIDATIONS[:1]),
    "mIoU of no labelled pixel": lambda: iou_curve([VALIDATIONS[0] | {"mean_iou": None}]),
    "accuracy": lambda: accuracy_curves(VALIDATIONS),
    "learning rate": lambda: learning_rate_curve(TRAIN),
    "bars": lambda: iou_bars(CLASSES),
}


@pytest.mark.many
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_finding_and_named_axes_and_leaves_the_style_alone(name, tmp_path):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert len(figure.get_suptitle()) > 10
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    svg = inline_svg(figure, "plot", described="a & <b>")
    write_png(figure, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    assert svg.startswith("<svg ")
    with Image.open(tmp_path / "plot.png") as png:
        assert png.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("figure", "title"),
    [
        ("mIoU", "mIoU 71.32 % at step 20, best of 3 validations"),
        ("mIoU of one validation", "mIoU 30.00 % at step 10, the only validation"),
        ("accuracy", "80.00 % of pixels right at step 30, 70.00 % in the mean of classes"),
        ("loss", "Training loss 0.051 at step 40; validation is lowest at step 30: 0.033"),
        ("learning rate", "Learning rate peaks at 1.00e-04 in step 1, is 2.50e-06 at the end"),
        ("bars", "IoU from 0.00 % (fence) to 90.00 % (road)"),
    ],
)
def test_titles_say_the_finding(figure, title):
    assert FIGURES[figure]().get_suptitle().replace("\n", " ") == title


def test_units_stand_on_the_axes():
    assert FIGURES["mIoU"]().axes[0].get_ylabel() == "mIoU (%)"
    assert FIGURES["accuracy"]().axes[0].get_ylabel() == "accuracy (%)"
    assert FIGURES["bars"]().axes[0].get_xlabel() == "IoU (%)"


def test_a_loss_that_is_not_a_number_is_named():
    records = [*TRAIN[:5], {**TRAIN[5], "loss": None}, *TRAIN[6:]]
    assert loss_curves(records).get_suptitle() == "Training loss is not a number at step 6"


@pytest.mark.parametrize("draw", [loss_curves, iou_curve, accuracy_curves, learning_rate_curve])
def test_nothing_to_draw_is_a_wrong_call(draw):
    with pytest.raises(ValueError, match="no `(train|validation)` record to draw: got 0 records"):
        draw([])


def test_bars_say_in_words_why_a_class_has_no_score():
    texts = [text.get_text() for text in FIGURES["bars"]().axes[0].texts]
    assert texts == ["absent", "0 %, never predicted", "90.00 %"]


def test_smoothing_keeps_a_constant_and_leaves_gaps():
    values = np.full(50, 3.0)
    values[7] = np.nan
    result = smoothed(values)
    assert np.isnan(result[7])
    np.testing.assert_allclose(np.delete(result, 7), 3.0)


def test_svgs_are_equal_each_time_and_ids_of_two_do_not_meet():
    one, same = (inline_svg(FIGURES["mIoU"](), "a", described="") for _ in range(2))
    other = inline_svg(FIGURES["mIoU"](), "b", described="")
    assert one == same
    ids = [{part.split('"')[0] for part in svg.split('id="')[1:]} for svg in (one, other)]
    assert not ids[0] & ids[1]
    assert "<style" not in one
    assert "<metadata" not in one
