import csv
import io

from rich.console import Console

from hfseg.viz import parameters_text, render_parameters, render_scores, scores_csv, scores_text, summary
from hfseg.viz.numbers import count, percent, short_count
from hfseg.viz.tables import confusion_csv, parameter_summary

METRICS = {
    "mean_iou": 0.71324,
    "mean_accuracy": 0.8,
    "overall_accuracy": 0.95,
    "baseline": {"class": "road", "mean_iou": 0.3, "overall_accuracy": 0.9},
    "classes": [
        {"id": 0, "name": "road", "color": [128, 64, 128], "label_pixels": 1234567, "predicted_pixels": 1000}
        | {"iou": 0.71324, "accuracy": 0.9, "state": "ok"},
        {"id": 1, "name": "[red]a, b", "color": [0, 0, 0], "label_pixels": 0, "predicted_pixels": 0}
        | {"iou": None, "accuracy": None, "state": "absent"},
        {"id": 2, "name": "pole", "color": [9, 9, 9], "label_pixels": 10, "predicted_pixels": 0}
        | {"iou": 0.0, "accuracy": 0.0, "state": "never predicted"},
    ],
    "confusion": [[1, 2, 0], [0, 0, 0], [10, 0, 0]],
}
PARAMETERS = [
    {"module": "backbone", "total": 3000, "trainable": 0},
    {"module": "neck", "total": 0, "trainable": 0},
    {"module": "head", "total": 1000, "trainable": 1000},
]


def printed(table, width=100):
    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True).print(table)
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


def test_the_plain_table_reads_without_colour():
    assert scores_text(METRICS).splitlines() == [
        "class         pixels  predicted      IoU  accuracy  state",
        "---------  ---------  ---------  -------  --------  ---------------",
        "road       1,234,567      1,000  71.32 %   90.00 %  ok",
        "[red]a, b          0          0   absent    absent  absent",
        "pole              10          0   0.00 %    0.00 %  never predicted",
    ]


def test_the_terminal_table_holds_the_same_cells_and_no_markup_of_a_name():
    lines = printed(render_scores(METRICS))
    plain = scores_text(METRICS).splitlines()[2:]
    assert [line.removeprefix("■ ").split() for line in lines[-3:]] == [line.split() for line in plain]


def test_parameters_are_said_to_be_frozen_or_trainable():
    assert parameters_text(PARAMETERS).splitlines() == [
        "module    parameters  trainable  state",
        "--------  ----------  ---------  -------------",
        "backbone       3,000          0  frozen",
        "neck               0          0  no parameters",
        "head           1,000      1,000  trainable",
        "all            4,000      1,000  partly frozen",
    ]
    assert printed(render_parameters(PARAMETERS))[-1].split() == ["all", "4,000", "1,000", "partly", "frozen"]
    assert parameter_summary(PARAMETERS) == "1,000 of 4,000 parameters are trained (25.00 %)"


def test_the_summary_names_the_constant_predictor_beside_the_scores():
    assert summary(METRICS) == (
        "mIoU 71.32 %, mean accuracy 80.00 %, pixel accuracy 95.00 % "
        "(always `road`: mIoU 30.00 %, pixel accuracy 90.00 %)"
    )


def test_csv_keeps_names_with_commas_and_leaves_missing_scores_empty():
    rows = list(csv.reader(io.StringIO(scores_csv(METRICS))))
    assert rows[0] == ["id", "name", "label_pixels", "predicted_pixels", "iou_percent", "accuracy_percent", "state"]
    assert rows[1] == ["0", "road", "1234567", "1000", "71.3240", "90.0000", "ok"]
    assert rows[2] == ["1", "[red]a, b", "0", "0", "", "", "absent"]
    assert list(csv.reader(io.StringIO(confusion_csv(METRICS))))[3] == ["pole", "10", "0", "0"]


def test_numbers_are_written_one_way():
    assert [percent(value) for value in (0.71324, 1.0, None, float("nan"))] == [
        "71.32 %",
        "100.00 %",
        "undefined",
        "undefined",
    ]
    assert count(1234567) == "1,234,567"
    assert [short_count(number) for number in (950, 27_300, 999_999, 3_714_658, 120_000_000)] == [
        "950",
        "27.3 k",
        "1.00 M",
        "3.71 M",
        "120 M",
    ]
