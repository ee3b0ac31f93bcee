import csv
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from made_run import write_run
from PIL import Image

from hfseg.errors import CheckpointError
from hfseg.viz import build_report
from hfseg.viz.page import draw, render
from hfseg.viz.run import read_run

pytestmark = pytest.mark.slow

VOID = ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]


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
    assert "connect-src" not in html
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


def test_a_run_without_a_labelled_pixel_has_a_page(tmp_path):
    run_dir = write_run(tmp_path / "run")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    unscored = {"mean_iou": None, "mean_accuracy": None, "overall_accuracy": None}
    metrics |= {**unscored, "baseline": {**metrics["baseline"], **unscored}}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    assert "always “sky”: undefined" in build_report(run_dir).read_text(encoding="utf-8")


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
    assert [each["data-name"] for each in Page(html).find("figure", **{"class": "card compare"})] == ["street-1"]


def test_explanations_are_shown_by_kind_and_none_from_elsewhere(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "explain").mkdir()
    Image.new("RGB", (60, 40), "red").save(run_dir / "explain" / "car.png")
    Image.new("RGB", (60, 40), "red").save(tmp_path / "secret.png")
    lines = [
        {"file": "clip.mp4", "kind": "attention", "title": "Heads", "caption": "of <stage 2>"},
        {"file": "car.png", "kind": "cam", "title": "Car", "caption": "at stage 3"},
        {"file": "../../secret.png", "kind": "cam", "title": "Elsewhere", "caption": "not ours"},
    ]
    (run_dir / "explain" / "pictures.json").write_text(json.dumps(lines))
    html = render(read_run(run_dir), {})
    page = Page(html)
    assert html.index("Class activation") < html.index("Attention heads")
    assert [picture["alt"] for picture in page.find("img") if "Car" in picture["alt"] or "Else" in picture["alt"]] == [
        "Car"
    ]
    assert 'of &lt;stage 2&gt; <span class="file">Moving, in <code>explain/clip.mp4</code>' in html
    (run_dir / "explain" / "pictures.json").write_text('[{"file": "a"}]')
    with pytest.raises(CheckpointError, match=r"pictures.json` is no list of pictures: 'kind'"):
        read_run(run_dir)


def test_of_many_explanations_the_page_shows_some_and_counts_the_others(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "explain").mkdir()
    lines = [{"file": f"{place}.mp4", "kind": "cam", "title": "a", "caption": "b"} for place in range(30)]
    (run_dir / "explain" / "pictures.json").write_text(json.dumps(lines))
    html = render(read_run(run_dir), {})
    assert html.count("card explained") == 24
    assert "6 more explanations in <code>explain/</code>." in html
