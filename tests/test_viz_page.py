import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hfseg.errors import CheckpointError
from hfseg.labels import LabelSpace
from hfseg.viz import build_report, side_by_side
from hfseg.viz.page import draw, render
from hfseg.viz.pictures import embed
from hfseg.viz.run import best_validation, one_timeline, parse_log, read_run

SPACE = LabelSpace.from_names(["sky", "<script>alert(1)</script>", "fence & gate", "train"])
VOID = ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]


def write_run(run_dir):
    """Write a run folder of made-up numbers: 60 steps, 5 validations, scores, two sample predictions."""
    rng = np.random.default_rng(0)
    (run_dir / "predictions").mkdir(parents=True)
    (run_dir / "config.yaml").write_text("model:\n  kind: segformer\n  backbone: mit-b0\ndata:\n  kind: folder\n")
    (run_dir / "env.json").write_text(json.dumps({"torch": "2.13.0", "device": "<cpu>"}))
    parameters = [
        {"module": "backbone", "total": 900, "trainable": 0},
        {"module": "head", "total": 100} | {"trainable": 100},
    ]
    (run_dir / "parameters.json").write_text(json.dumps(parameters))
    (run_dir / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log_of(rng)) + '{"event": "tr')
    matrix = np.array([[900, 60, 0, 0], [100, 500, 0, 0], [40, 10, 0, 0], [0, 0, 0, 0]])
    (run_dir / "metrics.json").write_text(json.dumps(metrics_of(matrix)))
    for index in range(2):
        image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        pred, labels = (rng.integers(0, 3, (48, 64)).astype(np.uint8) for _ in range(2))
        side_by_side(image, pred, labels, SPACE).save(run_dir / "predictions" / f"street-{index}-side.jpg")
    return run_dir


def log_of(rng):
    for step in range(1, 61):
        loss = 2 / step + rng.random() * 0.1
        speed = {"images_per_s": 8.1, "data_wait": 0.01, "seconds": step * 0.5}
        yield {"event": "train", "step": step, "epoch": step / 12, "lr": 6e-5, "loss": loss, "ce": loss, **speed}
        if step % 12 == 0:
            scores = {"mean_iou": 0.4 - 0.01 * abs(48 - step), "mean_accuracy": 0.5, "overall_accuracy": 0.83}
            yield {"event": "validation", "step": step, "epoch": step / 12, "loss": 1 / step, **scores}


def metrics_of(matrix):
    label_pixels, predicted, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    states = ["ok", "ok", "never predicted", "absent"]
    classes = [
        {
            "id": i,
            "name": SPACE.names[i],
            "color": list(SPACE.palette[i]),
            "label_pixels": int(label_pixels[i]),
            "predicted_pixels": int(predicted[i]),
            "iou": float(right[i] / (label_pixels[i] + predicted[i] - right[i])) if label_pixels[i] else None,
            "accuracy": float(right[i] / label_pixels[i]) if label_pixels[i] else None,
            "state": states[i],
        }
        for i in range(4)
    ]
    return {
        "model": "best-miou",
        "dataset": {"kind": "folder", "split": "validation", "images": 2},
        "protocol": {"mode": "whole", "short_side": None},
        "mean_iou": 0.51236,
        "mean_accuracy": 0.6,
        "overall_accuracy": 0.87,
        "baseline": {"class": "sky", "mean_iou": 0.1987, "overall_accuracy": 0.596},
        "classes": classes,
        "confusion": matrix.tolist(),
    }


class Page(HTMLParser):
    """Collects what a page refers to, and checks that every element is closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.references, self.elements = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def find(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = write_run(tmp_path_factory.mktemp("runs") / "street scenes")
    build_report(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def html(run_dir):
    return (run_dir / "report.html").read_text(encoding="utf-8")


def test_the_report_is_one_file_that_asks_for_nothing(html):
    page = Page(html)
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert len(html) < 5_000_000


def test_the_report_is_well_formed_and_its_ids_are_unique(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    inside = [reference for reference in page.references if reference.startswith("#")]
    assert {reference[1:] for reference in inside} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(page.ids)
    labelled = [attributes["aria-labelledby"] for attributes in page.find("section")]
    assert set(labelled) <= set(page.ids)


@pytest.mark.parametrize(
    "text",
    [
        "51.24 %",  # mIoU
        "87.00 %",  # pixel accuracy
        "always “sky”: 19.87 %",
        "mIoU 40.00 % at step 48, best of 5 validations",
        "never predicted",
        "absent",
        "100 of 1,000 parameters are trained (10.00 %).",
        "segformer, mit-b0",
        "8.1 images/s in training (median)",
        "Scores of best-miou on 2 images: the validation part of the folder data (inference: whole).",
        "street-0",
        "&lt;cpu&gt;",
        "/config.yaml&#39; --output other",  # the folder's name has a space
    ],
)
def test_the_report_says(html, text):
    assert text in html


def test_what_comes_from_files_is_escaped(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "fence &amp; gate" in html
    assert len(Page(html).find("script")) == 1
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().split()


def test_tables_can_be_sorted(html):
    page = Page(html)
    assert len(page.find("table", **{"class": "sortable"})) == 2
    heads = page.find("th", scope="col")
    assert all(head["aria-sort"] == "none" for head in heads)
    assert len(heads) == 7 + 4
    numbers = [cell["data-sort"] for tag, cell in page.elements if tag == "td" and "number" in cell.get("class", "")]
    assert [float(number) for number in numbers[:5]] == pytest.approx([0.9375, 960, 960 / 1610, 1040, 500 / 600])


def test_plots_and_tables_are_files_too(run_dir):
    names = sorted(path.name for path in (run_dir / "plots").iterdir())
    drawn = ("accuracy", "confusion", "learning-rate", "loss", "miou", "most-confused", "per-class")
    pngs = [f"{name}.png" for name in drawn]
    assert names == sorted([*pngs, "confusion.csv", "per-class.csv"])
    with (run_dir / "plots" / "per-class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["ok", "ok", "never predicted", "absent"]
    assert float(rows[0]["iou_percent"]) == pytest.approx(100 * 900 / 1100, abs=1e-4)


def test_a_report_of_the_same_files_is_the_same_page(run_dir):
    one, same = (render(run, draw(run)) for run in (read_run(run_dir), read_run(run_dir)))
    assert one == same


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (
            ["metrics.json"],
            ["No final evaluation yet", "There is no metrics.json yet", "There are no per-class scores"],
        ),
        (["parameters.json", "predictions"], ["There is no parameters.json", "There are no sample predictions yet"]),
    ],
)
def test_a_partial_run_says_what_is_missing(tmp_path, missing, says):
    run_dir = write_run(tmp_path / "run")
    for name in missing:
        shutil.rmtree(run_dir / name) if (run_dir / name).is_dir() else (run_dir / name).unlink()
    run = read_run(run_dir)
    html = render(run, draw(run))
    Page(html)
    assert all(text in html for text in says)


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", ["Nothing has been trained yet", "No step has been logged yet", "No validation has been run yet"]),
        (
            '{"event": "train", "step": 3, "epoch": 0.1, "lr": 0.1, "loss": 2.5}\n',
            ["training has reached step 3", "Training loss 2.500 at step 3, no validation yet"],
        ),
        (
            '{"event": "train", "step": 3, "epoch": 0.1, "lr": 0.1, "loss": null}\n'
            '{"event": "stop", "step": 3, "reason": "loss is <NaN>"}\n',
            ["Training loss is not a number at step 3", "Stopped at step 3: loss is &lt;NaN&gt;."],
        ),
    ],
)
def test_a_run_that_has_just_begun_has_a_page(tmp_path, log, says):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.json").unlink()
    (run_dir / "log.jsonl").write_text(log)
    html = build_report(run_dir).read_text(encoding="utf-8")
    Page(html)
    assert all(text in html for text in says)


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "log.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    run_dir = write_run(tmp_path / "run")
    (run_dir / name).unlink()
    with pytest.raises(CheckpointError, match=rf"run folder `.*` has no readable `{name}`: No such file"):
        build_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_missing_folder_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="run folder `.*nowhere` does not exist"):
        read_run(tmp_path / "nowhere")
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.json").write_text('{"mean_iou": 0.')
    with pytest.raises(CheckpointError, match=r"metrics.json` is not JSON \(line 1\)"):
        read_run(run_dir)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_stay(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "predictions" / "street-0-side.jpg").write_bytes(b"no jpeg")
    html = render(read_run(run_dir), {})
    assert "Cannot be read: street-0-side.jpg." in html
    assert len(Page(html).find("img")) == 1


def test_only_the_last_line_of_a_log_may_be_cut_off(tmp_path):
    whole, cut = '{"event": "train", "step": 1}\n', '{"event": "tra'
    assert parse_log(whole + cut, tmp_path) == [{"event": "train", "step": 1}]
    with pytest.raises(CheckpointError, match="is damaged in line 1: expected a JSON object"):
        parse_log(f"{cut}\n{whole}", tmp_path)
    with pytest.raises(CheckpointError, match="line 1: expected an object with `event`: got '3'"):
        parse_log("3\n", tmp_path)


def test_steps_that_a_resumed_run_did_again_are_there_once():
    before = [{"event": "train", "step": step, "loss": 9} for step in (1, 2, 3)]
    after = [{"event": "train", "step": step, "loss": 1} for step in (3, 4)]
    timeline = one_timeline([*before, {"event": "resume", "step": 2}, *after])
    assert [(record["step"], record.get("loss")) for record in timeline] == [(1, 9), (2, 9), (2, None), (3, 1), (4, 1)]


def test_the_best_validation_is_the_first_of_equals_and_never_one_without_a_score():
    records = [{"step": step, "mean_iou": iou} for step, iou in ((1, None), (2, 0.5), (3, 0.5))]
    assert best_validation(records)["step"] == 2


def test_pictures_share_the_room_there_is(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}-side.jpg" for index in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (400, 1200, 3), dtype=np.uint8)).save(path, quality=95)
    pictures, unreadable = embed(paths, max_bytes=300_000)
    assert unreadable == []
    assert [picture.name for picture in pictures] == ["0", "1", "2"]
    assert sum(len(picture.uri) for picture in pictures) <= 300_000
    assert all(picture.width / picture.height == pytest.approx(3, rel=0.02) for picture in pictures)
