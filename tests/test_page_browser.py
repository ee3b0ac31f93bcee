"""The page of a run as a browser shows it; each test leaves a screenshot."""

import json

import numpy as np
import pytest
from browser import Watched, artifact, open_browser, quiet_page
from made_run import SPACE, write_run

from hfseg.viz import side_by_side, worst_heading, worst_picture
from hfseg.viz.page import draw, render
from hfseg.viz.run import read_run

pytestmark = pytest.mark.slow

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
MANY = 150


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """Make a run with scores, samples of pictures, a worst image and explanations."""
    run_dir = write_run(tmp_path_factory.mktemp("runs") / "street")
    image, ids = np.full((96, 128, 3), 90, dtype=np.uint8), np.zeros((96, 128), dtype=np.uint8)
    ids[40:] = 3
    for folder in ("worst", "explain"):
        (run_dir / folder).mkdir()
    heading = worst_heading("street-1", 0.31, rank=1, num_images=2, protocol="whole")
    worst_picture(image, ids, 0 * ids, SPACE, heading=heading).save(run_dir / "worst" / "01-street-1.jpg")
    side_by_side(image, ids, None, SPACE).save(run_dir / "explain" / "train.jpg")
    line = {"file": "train.jpg", "kind": "cam", "title": "What speaks for train", "caption": "Grad-CAM at stage 4"}
    (run_dir / "explain" / "pictures.json").write_text(json.dumps([line]))
    return written(run_dir)


def written(run_dir):
    """Write the page alone."""
    run = read_run(run_dir)
    path = run_dir / "report.html"
    path.write_text(render(run, draw(run)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page_path, request):
    """Open the page, and see at the end that it asked for nothing and complained of nothing."""
    with quiet_page(browser, page_path, f"{request.node.originalname}.png", getattr(request, "param", DESKTOP)) as page:
        yield page


def classes(page):
    return page.locator("section[aria-labelledby=classes] tbody th").all_inner_texts()


def test_the_table_of_classes_is_sorted_by_a_click_and_by_the_keyboard(opened):
    before = classes(opened)
    heads = opened.locator("section[aria-labelledby=classes] thead th")
    iou = heads.nth(1)
    iou.locator("button").click()
    assert iou.get_attribute("aria-sort") == "descending"
    values = opened.locator("section[aria-labelledby=classes] tbody td:nth-child(2)")
    numbers = [float(value) for value in values.evaluate_all("cells => cells.map((cell) => cell.dataset.sort)")]
    assert numbers == sorted(numbers, reverse=True)
    opened.keyboard.press("Enter")
    assert iou.get_attribute("aria-sort") == "ascending"
    heads.nth(0).locator("button").click()
    assert classes(opened) == sorted(before, key=str.casefold)
    assert iou.get_attribute("aria-sort") == "none"


def border(sample):
    """Where the slider says that it is, and from where on the right layer is seen."""
    shown = sample.locator(".stage .right").evaluate("layer => getComputedStyle(layer).clipPath")
    return float(sample.locator("input").input_value()), shown


def test_the_slider_follows_the_mouse_and_the_arrow_keys(opened):
    sample = opened.locator("figure.compare").first
    stage = sample.locator(".stage")
    stage.scroll_into_view_if_needed()
    assert border(sample) == (50, "inset(0px 0px 0px 50%)")
    box = stage.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] / 4, box["y"] + 30, steps=3)
    opened.mouse.up()
    assert border(sample) == (25, "inset(0px 0px 0px 25%)")
    opened.mouse.move(box["x"] + box["width"] - 5, box["y"] + 30)
    assert border(sample)[0] == 25
    opened.keyboard.press("ArrowRight")
    assert border(sample) == (26, "inset(0px 0px 0px 26%)")
    assert sample.get_by_role("slider").get_attribute("aria-valuetext") == "26 % image"


def test_both_layers_of_the_slider_can_be_chosen(opened):
    sample = opened.locator("figure.compare").first
    assert sample.locator("option").all_inner_texts() == 2 * ["image", "labels", "prediction", "error"]
    sample.get_by_label("left").select_option("labels")
    sample.get_by_label("right").select_option("error")
    wanted = [sample.locator(f".panels [data-name={name}] img").get_attribute("src") for name in ("labels", "error")]
    assert [sample.locator(f".stage .{side}").get_attribute("src") for side in ("left", "right")] == wanted
    worst = opened.locator("section[aria-labelledby=worst] figure.compare")
    assert worst.locator("select").evaluate_all("all => all.map((one) => one.selectedOptions[0].text)") == [
        "labels",
        "prediction",
    ]


@pytest.mark.parametrize("opened", [PHONE], indirect=True)
def test_a_phone_shows_all_without_scrolling_sideways_and_slides_by_touch(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    stage = opened.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    opened.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 20)
    assert border(opened.locator("figure.compare").first)[0] == pytest.approx(75, abs=1)
    small = "all => all.filter((one) => parseFloat(getComputedStyle(one).fontSize) < 9.4).map((one) => one.outerHTML)"
    assert opened.locator("main *:visible").evaluate_all(small) == []


def test_a_cell_of_the_matrix_tells_its_pixels_when_it_is_pointed_at(opened):
    field = opened.get_by_role("application")
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 1.5 / 4, box["y"] + box["height"] * 0.5 / 4)
    tip = opened.locator(".tip")
    assert tip.inner_text().splitlines() == [
        "sky → <script>alert(1)</script>",
        "60 pixels",
        "6.25 % of labelled sky",
        "10.53 % of predicted <script>alert(1)</script>",
    ]
    assert opened.locator(".tops .here, .cells .sides .here").all_inner_texts() == ["<script>alert(1)</script>", "sky"]
    opened.mouse.move(5, 5)
    assert tip.is_hidden()


def test_the_arrow_keys_walk_through_the_matrix(opened):
    field = opened.get_by_role("application")
    opened.keyboard.press("Tab")
    field.focus()
    tip = opened.locator(".tip")
    assert tip.inner_text().startswith("sky, right\n900 pixels")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        opened.keyboard.press(key)
    assert tip.inner_text().startswith("<script>alert(1)</script> → sky\n100 pixels")
    opened.keyboard.press("End")
    assert tip.inner_text().splitlines()[3] == "none of predicted train"
    opened.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.parametrize("opened", [DESKTOP | {"color_scheme": "dark"}], indirect=True)
def test_a_dark_page_has_light_letters(opened):
    paper, ink = opened.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert sum(channels(paper)) < 100 < 600 < sum(channels(ink))


def channels(color):
    return [float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]


def test_paper_shows_panels_side_by_side_and_the_drawn_matrix(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    sample = opened.locator("figure.compare").first
    assert [sample.locator(part).is_visible() for part in (".stage", ".panels")] == [False, True]
    tops = sample.locator(".panels > figure").evaluate_all("all => all.map((one) => one.offsetTop)")
    assert len(set(tops)) == 1
    matrix = opened.locator("figure.matrix")
    assert [matrix.locator(part).is_visible() for part in (".cells", ".plain svg")] == [False, True]
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("opened", [DESKTOP | {"java_script_enabled": False}], indirect=True)
def test_without_its_script_the_page_shows_all_it_has(opened):
    assert opened.locator("figure.compare").first.locator(".panels img").count() == 4
    assert opened.locator("figure.matrix .plain svg").is_visible()
    assert all(hint.is_hidden() for hint in opened.locator(".scripted").all())


def test_a_matrix_of_150_classes_names_every_row_and_keeps_its_names_in_sight(browser, tmp_path):
    run_dir = write_run(tmp_path / "wide")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    first = metrics["classes"][0]
    metrics["classes"] = [{**first, "id": place, "name": f"class {place}"} for place in range(MANY)]
    metrics["confusion"] = (1000 * np.eye(MANY, dtype=int) + np.arange(MANY) % 7).tolist()
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    watched = Watched(browser.new_context(**DESKTOP))
    page = watched.page
    page.goto(written(run_dir).as_uri())
    page.keyboard.press("Tab")
    page.get_by_role("application").focus()
    for key in ("End", *["PageDown"] * 20):
        page.keyboard.press(key)
    assert page.locator(".tip strong").inner_text() == "class 149, right"
    names = page.locator(".cells .here")
    assert names.all_inner_texts() == 2 * ["class 149"]
    view = page.locator(".cells").bounding_box()
    for name in names.all():
        box = name.bounding_box()
        assert view["x"] <= box["x"] < view["x"] + view["width"]
        assert view["y"] <= box["y"] < view["y"] + view["height"]
        assert float(name.evaluate("name => parseFloat(getComputedStyle(name).fontSize)")) >= 9.5
    page.locator("figure.matrix").screenshot(path=artifact("matrix_of_150_classes.png"))
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert watched.complaints == []
