import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from hfseg.viz import parameters_text, render_parameters, render_scores, scores_csv, scores_text, summary
from hfseg.viz.facts import scores
from hfseg.viz.numbers import count, percent, points, protocol_words, short_count, short_name, span
from hfseg.viz.robustness import corruption_summary, corruptions_csv, corruptions_text, render_corruptions
from hfseg.viz.run import RunFolder
from hfseg.viz.tables import against_text, confusion_csv, parameter_summary

METRICS = {
    "protocol": {"mode": "whole", "short_side": 512},
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
"""As version 0.1 wrote it."""
FULL = {
    **METRICS,
    "protocol": {"kind": "whole", "short_side": 512, "text": "whole image, short side 512"},
    "mean_iou_interval": [0.69804, 0.7281],
    "overall_accuracy_interval": [0.94, 0.96],
    "mean_iou_over_images": 0.651,
    "boundary_iou": 0.51,
    "boundary_width": "2 % of the diagonal",
    "bootstrap": {"resamples": 1000, "level": 0.95, "seed": 0},
    "classes": [
        METRICS["classes"][0] | {"boundary_iou": 0.51, "iou_interval": [0.7, 0.72]},
        METRICS["classes"][1] | {"boundary_iou": None, "iou_interval": None},
        METRICS["classes"][2] | {"boundary_iou": 0.0, "iou_interval": [0.0, 0.0]},
    ],
    "against": {"model": "runs/b", "difference": 0.0123, "interval": [0.004, 0.0201], "verdict": "better"},
    "corruptions": [
        {"name": "fog", "severity": 1, "mean_iou": 0.6, "drop": 0.15877},
        {"name": "fog", "severity": 3, "mean_iou": 0.4, "drop": 0.43918},
        {"name": "JPEG", "severity": 3, "mean_iou": 0.7, "drop": 0.01856},
    ],
    "corruption_means": [
        {"name": "fog", "mean_iou": 0.5, "drop": 0.29898},
        {"name": "JPEG", "mean_iou": 0.7, "drop": 0.01856},
        {"name": "all", "mean_iou": 0.6, "drop": 0.15877},
    ],
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


def test_intervals_and_boundary_scores_have_columns_where_they_are_known():
    assert scores_text(FULL).splitlines() == [
        "class         pixels  predicted      IoU   95 % interval  boundary  accuracy  state",
        "---------  ---------  ---------  -------  --------------  --------  --------  ---------------",
        "road       1,234,567      1,000  71.32 %  70.00 to 72.00   51.00 %   90.00 %  ok",
        "[red]a, b          0          0   absent                    absent    absent  absent",
        "pole              10          0   0.00 %    0.00 to 0.00    0.00 %    0.00 %  never predicted",
    ]


@pytest.mark.parametrize("metrics", [METRICS, FULL])
def test_the_terminal_table_holds_the_same_cells_and_no_markup_of_a_name(metrics):
    lines = printed(render_scores(metrics))
    plain = scores_text(metrics).splitlines()[2:]
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


def test_the_summary_says_the_protocol_and_names_the_constant_predictor_beside_the_scores():
    assert summary(METRICS).splitlines() == [
        "mIoU 71.32 %, mean accuracy 80.00 %, pixel accuracy 95.00 %; whole, shorter side 512 px",
        "always `road`: mIoU 30.00 %, pixel accuracy 90.00 %",
    ]
    assert summary(FULL).splitlines() == [
        "mIoU 71.32 % (95 % interval 69.80 to 72.81 %), mean accuracy 80.00 %, pixel accuracy 95.00 %; "
        "whole image, short side 512",
        "mIoU over images 65.10 %, boundary IoU 51.00 % (2 % of the diagonal)",
        "always `road`: mIoU 30.00 %, pixel accuracy 90.00 %",
    ]


def test_a_comparison_says_its_verdict_and_how_sure_it_is():
    assert against_text(FULL) == (
        "better than `runs/b`: mIoU +1.23 points (95 % interval +0.40 points to +2.01 points, "
        "the same images drawn for both); whole image, short side 512"
    )
    unsure = {"model": "b", "difference": -0.001, "interval": [-0.02, 0.01], "verdict": "not distinguishable"}
    assert against_text(FULL | {"against": unsure}).startswith("not distinguishable from `b`: mIoU -0.10 points")


def test_corruptions_have_a_row_each_and_a_column_for_each_severity():
    assert corruptions_text(FULL).splitlines() == [
        "corruption  severity 1  severity 3     mean     lost",
        "----------  ----------  ----------  -------  -------",
        "fog            60.00 %     40.00 %  50.00 %  29.90 %",
        "JPEG                       70.00 %  70.00 %   1.86 %",
        "all                                 60.00 %  15.88 %",
    ]
    assert [line.split() for line in printed(render_corruptions(FULL)) if "fog" in line or "all" in line] == [
        ["fog", "60.00", "%", "40.00", "%", "50.00", "%", "29.90", "%"],
        ["all", "60.00", "%", "15.88", "%"],
    ]
    assert corruption_summary(FULL) == (
        "mIoU 60.00 % under 2 corruptions on average, 71.32 % clean: 15.88 % of it is lost, most to fog (29.90 %); "
        "whole image, short side 512"
    )
    *others, mean = FULL["corruption_means"]
    assert "clean: a gain of 5.00 %, as of models that have learned little; lowest under fog; whole" in (
        corruption_summary(FULL | {"corruption_means": [*others, mean | {"drop": -0.05}]})
    )
    nothing = FULL | {"mean_iou": 0.0, "corruption_means": [mean | {"drop": None}] * 2}
    assert corruption_summary(nothing) == (
        "what corruption costs is undefined: mIoU 0.00 % clean; whole image, short side 512"
    )
    rows = list(csv.reader(io.StringIO(corruptions_csv(FULL))))
    assert rows[0] == ["corruption", "severity", "miou_percent", "lost_percent", "protocol"]
    assert rows[1] == ["clean", "0", "71.3240", "0.0000", "whole image, short side 512"]
    assert rows[3] == ["fog", "3", "40.0000", "43.9180", "whole image, short side 512"]


def test_the_first_screen_of_the_page_holds_intervals_and_other_definitions():
    def cards(metrics):
        run = RunFolder(Path("r"), "", {}, (), metrics, None, ())
        return [(card.name, card.value, card.beside) for card in scores(run)]

    assert [name for name, _, _ in cards(METRICS)] == ["mIoU", "Pixel accuracy", "Mean class accuracy"]
    assert cards(FULL) == [
        ("mIoU", "71.32 %", "95 % interval 69.80 to 72.81 %; always “road”: 30.00 %"),
        ("Pixel accuracy", "95.00 %", "95 % interval 94.00 to 96.00 %; always “road”: 90.00 %"),
        ("Mean class accuracy", "80.00 %", "3 classes, 1 absent, 1 never predicted"),
        ("Boundary IoU", "51.00 %", "in bands along outlines, 2 % of the diagonal wide"),
        ("mIoU over images", "65.10 %", "each image scored alone"),
    ]


def test_csv_keeps_names_with_commas_and_leaves_missing_scores_empty():
    rows = list(csv.reader(io.StringIO(scores_csv(METRICS))))
    protocol = "whole, shorter side 512 px"
    first = ["id", "name", "label_pixels", "predicted_pixels", "iou_percent"]
    assert rows[0] == [*first, "accuracy_percent", "state", "protocol"]
    assert rows[1] == ["0", "road", "1234567", "1000", "71.3240", "90.0000", "ok", protocol]
    assert rows[2] == ["1", "[red]a, b", "0", "0", "", "", "absent", protocol]
    full = list(csv.reader(io.StringIO(scores_csv(FULL))))
    added = ["iou_low_percent", "iou_high_percent", "boundary_iou_percent"]
    assert full[0] == [*first, *added, "accuracy_percent", "state", "protocol"]
    assert full[1][5:8] == ["70.0000", "72.0000", "51.0000"]
    assert full[2][5:8] == ["", "", ""]
    assert list(csv.reader(io.StringIO(confusion_csv(METRICS))))[3] == ["pole", "10", "0", "0"]


def test_numbers_are_written_one_way():
    assert [percent(value) for value in (0.71324, 1.0, None, float("nan"))] == [
        "71.32 %",
        "100.00 %",
        "undefined",
        "undefined",
    ]
    assert count(1234567) == "1,234,567"
    assert span((0.5, 0.60506)) == "50.00 to 60.51 %"
    assert [points(difference) for difference in (0.0123, -0.5, 0.0)] == [
        "+1.23 points",
        "-50.00 points",
        "+0.00 points",
    ]
    assert short_name("a" * 26) == "a" * 26
    assert short_name("a" * 27) == "a" * 25 + "…"
    assert protocol_words({"protocol": {"mode": "whole", "short_side": None}}) == "whole"
    assert [short_count(number) for number in (950, 27_300, 999_999, 3_714_658, 120_000_000)] == [
        "950",
        "27.3 k",
        "1.00 M",
        "3.71 M",
        "120 M",
    ]
