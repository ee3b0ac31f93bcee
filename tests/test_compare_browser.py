"""The page of a comparison of many members as a browser shows it; each test leaves a screenshot."""

import json
from itertools import combinations

import numpy as np
import pytest
from browser import open_browser, quiet_page
from PIL import Image

from hfseg.viz import write_comparison

pytestmark = pytest.mark.slow

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
LAPTOP = {"viewport": {"width": 1200, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
NAMES = [
    f"{decoder}-{encoder}" for decoder in ("upernet", "fusion") for encoder in ("nat", "dinat", "swin", "mit-b0", "<b>")
]
TIED = "not distinguishable"


def made_up(folder):
    """Write a comparison of ten members and one that failed, of which two lead."""
    ious = {name: 0.70 - 0.01 * place for place, name in enumerate(NAMES)}
    members = [
        {
            "name": name, "mean_iou": iou, "interval": [iou - 0.02, iou + 0.02], "seeds": [0, 1, 2], "spread": 0.01,
            "overall_accuracy": 0.9, "per_category_iou": [iou, None], "settings": {"model.kind": name}, "error": None,
            "runs": [{"seed": 0, "images_per_s": 10.0, "train_seconds": 60.0, "train_memory_mb": 900.0, "device": "cpu",
                      "parameters": 10**6 * (place + 3), "trainable": 10**6}],
            "macs": 10**9 * (12 - place), "uncounted": ["x.y"] if place == 3 else [], "memory_mb": 30.0,
            "latency": {"median_ms": 5000.0 - 4 * place, "lower_ms": 4999.0 - 4 * place, "upper_ms": 5001.0 - 4 * place},
            "memory_frames": 4, "frame_macs": 10**8 * (12 - place), "frames_per_s": 3.21, "joules": 1.23,
            "frame_latency": {"median_ms": 311.0, "lower_ms": 310.0, "upper_ms": 312.0},
        }
        for place, (name, iou) in enumerate(ious.items())
    ]  # fmt: skip
    failed = {
        "name": "broken",
        "mean_iou": None,
        "runs": [{"seed": 0}],
        "settings": {},
        "error": "seed 0: ended by SIGKILL",
    }
    verdicts = [TIED if number == 0 else "better" for number, _ in enumerate(combinations(NAMES, 2))]
    pairs = [
        {"one": one, "other": other, "difference": ious[one] - ious[other], "interval": [0.0, 0.02], "p_value": 0.01,
         "adjusted": 0.04, "verdict": verdict}
        for (one, other), verdict in zip(combinations(NAMES, 2), verdicts, strict=True)
    ]  # fmt: skip
    classes = [
        {
            "name": "road",
            "color": [128, 64, 128],
            "label_pixels": 900,
            "winner": NAMES[0],
            "is_clear": True,
            "difference": 0.01,
        },
        {"name": "<script>alert(1)</script>", "color": [0, 0, 142], "label_pixels": 0, "winner": None},
    ]
    cost = {"device": "cpu, 1 thread", "dtype": "float32", "batch_size": 1, "input": [72, 96], "output": [360, 480],
            "warm_up": 3, "rounds": 20, "frame_protocol": "whole image", "macs_method": "counted", "memory_method": "measured", "energy_method": None}  # fmt: skip
    for number in (1, 2):
        target = folder / "pictures" / f"street-{number}"
        target.mkdir(parents=True)
        Image.fromarray(np.full((60, 80, 3), 90, dtype=np.uint8)).save(target / "image.jpg")
        for name in ("labels", *(f"member-{name}" for name in NAMES if "<" not in name)):
            Image.fromarray(np.tile(np.array([0, 1, 255], dtype=np.uint8), (60, 27))).save(target / f"{name}.png")
    comparison = {
        "members": [*members, failed], "pairs": pairs, "classes": classes, "cost": cost, "split": "test",
        "split_reason": "no model was chosen on these images", "data": {"kind": "camvid", "images": 233}, "model": "best-miou",
        "protocol": "whole image", "bootstrap": {"resamples": 10_000, "level": 0.95, "seed": 0},
        "pictures": ["street-1", "street-2"],
    }  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(comparison))
    return write_comparison(folder)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, page_path, request):
    """Open the page, and see at the end that it asked for nothing and complained of nothing."""
    with quiet_page(browser, page_path, f"{request.node.originalname}.png", getattr(request, "param", DESKTOP)) as page:
        yield page


def column(page, number):
    return page.locator("table.dense tbody tr").evaluate_all(f"rows => rows.map(row => row.cells[{number}].innerText)")


def test_members_are_sorted_by_the_column_that_is_asked_for(opened):
    assert column(opened, 0)[0] == NAMES[0]
    opened.get_by_role("button", name="latency").click()
    assert column(opened, 0)[0] == NAMES[0]  # the slowest leads here, highest first
    opened.get_by_role("button", name="latency").click()
    assert [name for name in column(opened, 0) if name != "broken"] == NAMES[::-1]


def test_the_page_answers_first_and_escapes_what_comes_from_files(opened):
    assert opened.locator("h1").inner_text() == f"No single best: {NAMES[0]} leads"
    assert f"not distinguishable from {NAMES[1]}" in opened.locator(".lead").inner_text()
    assert "ended by SIGKILL" in opened.locator(".notice").inner_text()
    assert opened.locator("text=<script>alert(1)</script>").count() >= 1
    assert "9 G or more" in opened.locator("table.dense").inner_text().replace("9.00", "9")


@pytest.mark.parametrize("opened", [LAPTOP], indirect=True)
def test_all_columns_of_the_members_fit_a_laptop(opened):
    room = opened.locator("#members ~ .scroll")
    assert room.evaluate("room => room.scrollWidth <= room.clientWidth")
    titles = opened.locator("table.dense thead").inner_text()
    assert all(title in titles for title in ("interval", "frame MACs", "frames/s", "energy", "training memory"))


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_a_phone_scrolls_tables_and_not_the_page(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.locator(".same img").first.bounding_box()["width"] > 150
