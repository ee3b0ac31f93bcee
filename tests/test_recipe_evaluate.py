"""`hfseg evaluate` on real parts: a model with random weights on the demo images, and folders of masks."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hfseg.cli import main
from hfseg.data import CORRUPTIONS, CityscapesConfig, DemoConfig, official_labels
from hfseg.data.demo import COINS_DIR
from hfseg.engine.evaluation import Evaluation
from hfseg.engine.inference import SlideConfig, WholeConfig
from hfseg.errors import DataError
from hfseg.metrics import BootstrapConfig
from hfseg.models import SegformerModelConfig, save_model
from hfseg.recipes import evaluate, predict
from hfseg.recipes.evidence import compare_with, write_counts
from hfseg.recipes.run import FinetuneConfig, RunFolder, protocol_settings
from hfseg.recipes.subjects import PredictionFolder

pytestmark = pytest.mark.slow

IMAGES = COINS_DIR / "images" / "val"


def saved_model(folder: Path, space) -> str:
    torch.manual_seed(3)
    segmenter = SegformerModelConfig(backbone="mit-b0", pretrained="none").build(space)
    save_model(segmenter, space, folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model") / "random", DemoConfig().labels())


@pytest.fixture(scope="module")
def masks(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("masks")
    predict.run(predict.PredictConfig(model=model, inputs=(str(IMAGES),), output=output), progress=lambda text: None)
    return output


def score(output, **settings):
    defaults = {"data": {"kind": "demo"}, "output": output, "verify_data": False, "worst": 2}
    return evaluate.run(evaluate.EvaluateConfig.model_validate(defaults | settings))


@pytest.fixture(scope="module")
def scored(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("scored")
    return output, score(output, model=model)


def test_scores_are_those_of_counting_every_pixel_by_hand(scored, masks):
    matrix = np.zeros((2, 2), dtype=np.int64)
    for path in sorted(IMAGES.iterdir()):
        pred = np.asarray(Image.open(masks / f"{path.stem}.png"))
        labels = np.asarray(Image.open(COINS_DIR / "masks" / "val" / f"{path.stem}.png")) > 0
        for y in (0, 1):
            for p in (0, 1):
                matrix[y, p] += int(((labels == y) & (pred == p)).sum())
    _, metrics = scored
    assert metrics["confusion"] == matrix.tolist()
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert [row["iou"] for row in metrics["classes"]] == pytest.approx(iou.tolist())
    assert metrics["mean_iou"] == pytest.approx(iou.mean())
    low, high = metrics["mean_iou_interval"]
    assert low < metrics["mean_iou"] < high


def test_a_folder_of_masks_is_scored_like_the_model_that_made_them(scored, masks, tmp_path):
    _, metrics = scored
    found = score(tmp_path, predictions=masks)
    assert found["protocol"] == {"kind": "masks", "text": "masks as they are"}
    for key in ("confusion", "mean_iou", "boundary_iou", "mean_iou_over_images", "mean_iou_interval", "classes"):
        assert found[key] == metrics[key]


def test_an_evaluation_leaves_scores_counts_and_pictures(scored):
    output, metrics = scored
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    worst = [name for name in files if name.startswith("worst/")]
    assert [name for name in files if name not in worst] == [
        "counts.safetensors", "images.csv", "metrics.csv", "metrics.json", "plots/confusion.png",
    ]  # fmt: skip
    assert len(worst) == 2
    rows = [line.split(",") for line in (output / "images.csv").read_text().splitlines()]
    assert rows[0] == ["id", "miou", "correct_pixels", "labelled_pixels"]
    assert len(rows) == 13
    assert np.mean([float(row[1]) for row in rows[1:]]) == pytest.approx(metrics["mean_iou_over_images"])
    lowest = min(rows[1:], key=lambda row: float(row[1]))[0]
    assert worst[0] == f"worst/01-{lowest}.jpg"
    assert json.loads((output / "metrics.json").read_text())["protocol"]["text"] == "whole image, native size"
    assert "whole image, native size" in (output / "metrics.csv").read_text()


def test_two_models_are_compared_on_the_same_images_under_one_protocol_only(scored, model, masks, tmp_path):
    output, metrics = scored
    same = score(tmp_path / "same", model=model, against=output)["against"]
    assert (same["difference"], same["interval"], same["verdict"]) == (0.0, [0.0, 0.0], "not distinguishable")
    perfect = {
        path.stem: np.asarray(Image.open(COINS_DIR / "masks" / "val" / path.name)) > 0
        for path in masks.glob("val_*.png")
    }
    for stem, pred in perfect.items():
        (tmp_path / "perfect").mkdir(exist_ok=True)
        Image.fromarray(pred.astype(np.uint8)).save(tmp_path / "perfect" / f"{stem}.png")
    score(tmp_path / "bad", predictions=masks)
    better = score(tmp_path / "good", predictions=tmp_path / "perfect", against=tmp_path / "bad")["against"]
    assert better["verdict"] == "better"
    assert better["difference"] == pytest.approx(1 - metrics["mean_iou"])
    with pytest.raises(
        DataError,
        match="under different protocols cannot be compared: .* has `whole image, native size`, got `whole image, native size, flip`",
    ):
        score(tmp_path / "other", model=model, protocol={"kind": "whole", "flip": True}, against=output)
    with pytest.raises(DataError, match="scored on 12 and 48 images|scored on 48 and 12 images"):
        score(tmp_path / "train", model=model, split="train", against=output)
    with pytest.raises(DataError, match="there is no evaluation to compare with"):
        score(tmp_path / "none", model=model, against=tmp_path)
    assert not (tmp_path / "other").exists()


def test_corruptions_are_scored_on_the_same_images_every_time(model, tmp_path):
    corruptions = {"names": ["gaussian_noise", "contrast"], "severities": [5]}
    one, two = (score(tmp_path / name, model=model, corruptions=corruptions) for name in ("one", "two"))
    assert one["corruptions"] == two["corruptions"]
    assert [(row["name"], row["severity"]) for row in one["corruptions"]] == [("gaussian_noise", 5), ("contrast", 5)]
    for row in one["corruptions"]:
        assert row["drop"] == pytest.approx((one["mean_iou"] - row["mean_iou"]) / one["mean_iou"])
        assert row["mean_iou"] != one["mean_iou"]
    lines = (tmp_path / "one" / "corruptions.csv").read_text().splitlines()
    assert len(lines) == 4
    assert evaluate.corruption_names("all") == [*CORRUPTIONS]


SPACE = DemoConfig().labels()


def mask_folder(root, **masks):
    root.mkdir(exist_ok=True)
    for name, values in masks.items():
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(root / f"{name}.png")
    return root


def test_predictions_are_found_by_the_name_of_the_image_and_ignored_pixels_may_hold_anything(tmp_path):
    labels = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    folder = PredictionFolder(mask_folder(tmp_path / "a", x_pred=[[0, 1], [255, 0]], x2=[[1, 1], [1, 1]]), SPACE)
    assert folder.read("scene/x", labels).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"y": [[0, 1], [0, 0]]}, "image `x` has 0 predictions .* expected one, got 1 masks of other names"),
        ({"x_a": [[0, 1], [0, 0]], "x_b": [[0, 1], [0, 0]]}, "image `x` has 2 predictions"),
        ({"x": [[0, 1, 1], [0, 0, 1]]}, "differ in size: `x` is 2 x 2"),
        ({"x": [[255, 1], [0, 0]]}, "gives no class to 1 labelled pixels"),
        ({"x": [[7, 1], [0, 0]]}, "has the value 7 in 1 pixels"),
    ],
)
def test_predictions_that_cannot_be_scored_are_named(tmp_path, masks, message):
    folder = PredictionFolder(mask_folder(tmp_path / "a", **masks), SPACE)
    with pytest.raises(DataError, match=message):
        folder.read("x", np.array([[0, 1], [255, 1]], dtype=np.uint8))


@pytest.mark.parametrize(("first", "second"), [("x", "x_1"), ("x_1", "x"), ("a/x_1", "b/x_1")])
def test_a_prediction_of_one_image_is_not_taken_for_that_of_another(tmp_path, first, second):
    folder = PredictionFolder(mask_folder(tmp_path / "a", x_1=[[0, 1]]), SPACE)
    labels = np.array([[0, 1]], dtype=np.uint8)
    assert folder.read(first, labels).tolist() == folder.read(first, labels).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=f"x_1.png` would be that of two images: `{first}` and `{second}`"):
        folder.read(second, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ["fog", "fog"]}, "`names` holds a value twice: got fog, fog"),
        ({"names": ["fog"], "severities": [1, 1]}, "`severities` holds a value twice"),
        ({"names": ["fog"], "severities": []}, "`severities` is empty"),
        ({"severities": [1]}, "have no effect without corruptions"),
        ({"seed": 3}, "have no effect without corruptions"),
    ],
)
def test_corruptions_that_cannot_be_scored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate.CorruptionConfig.model_validate(settings)


def test_models_are_not_compared_where_nothing_is_labelled(tmp_path):
    areas = torch.zeros(2, 3, 2, dtype=torch.int64)
    evaluation = Evaluation({"confusion": torch.zeros(2, 2, dtype=torch.int64)}, {"areas": areas}, ("a", "b"), None)
    metrics = {"protocol": {"text": "masks"}, "model": "m"}
    write_counts(evaluation, metrics, tmp_path)
    with pytest.raises(DataError, match="no image has a labelled pixel"):
        compare_with(tmp_path, evaluation, metrics, BootstrapConfig(resamples=100))


def test_a_run_keeps_its_own_scores_where_its_model_is_shown_fewer_frames(tmp_path):
    def output(**settings):
        config = evaluate.EvaluateConfig.model_validate({"model": str(tmp_path), **settings})
        return evaluate._output(config, RunFolder(tmp_path), "whole image")

    assert output() == tmp_path
    assert output(memory_frames=0) == tmp_path / "eval" / tmp_path.name / "validation-whole-image"


def test_predictions_may_hold_the_raw_values_that_a_server_takes(tmp_path):
    space = official_labels("cityscapes")
    labels = np.array([[0, 13]], dtype=np.uint8)  # road, car
    folder = PredictionFolder(mask_folder(tmp_path / "a", x=[[7, 26]]), space, raw=True)
    assert folder.read("x", labels).tolist() == [[0, 13]]


@pytest.mark.parametrize(
    ("benchmark", "values"),
    [
        ("cityscapes", {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}),
        ("ade20k", set(range(1, 151))),
    ],
)
def test_a_submission_holds_raw_values_at_native_size_in_one_zip(tmp_path, benchmark, values):
    model = saved_model(tmp_path / "model", official_labels(benchmark))
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "berlin_000000_000019_leftImg8bit.png")
    inputs = {"model": model, "inputs": (str(tmp_path / "in"),), "output": tmp_path / "out"}
    predict.run(predict.PredictConfig(**inputs, submission=benchmark), progress=lambda text: None)
    predict.run(predict.PredictConfig(**inputs | {"output": tmp_path / "plain"}), progress=lambda text: None)
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == ["berlin_000000_000019_leftImg8bit.png"]
        with archive.open(archive.namelist()[0]) as file:
            mask = Image.open(file)
            mask.load()
    ids = np.asarray(Image.open(tmp_path / "plain" / "berlin_000000_000019_leftImg8bit.png"))
    assert (mask.mode, mask.size) == ("L", (90, 70))
    assert set(np.unique(mask)) <= values
    assert np.array_equal(official_labels(benchmark).encode(np.asarray(mask)), ids)
    other = "ade20k" if benchmark == "cityscapes" else "cityscapes"
    with pytest.raises(DataError, match="cannot be scored on this data set"):
        predict.run(predict.PredictConfig(**inputs, submission=other), progress=lambda text: None)


def test_protocol_flags_are_laid_over_the_runs_own(tmp_path):
    run = tmp_path / "run"
    (run / "best-miou").mkdir(parents=True)
    (run / "env.json").write_text("{}")
    own = SlideConfig(short_side=64, crop_size=48, flip=True)
    (run / "config.yaml").write_text(FinetuneConfig(evaluation=own).to_yaml())
    assert protocol_settings(str(run), None) == {
        f"protocol.{key}": value for key, value in own.model_dump(mode="json").items()
    }
    shared = protocol_settings(str(run / "best-miou"), "whole")
    assert shared == {
        "protocol.kind": "whole",
        "protocol.short_side": 64,
        "protocol.scales": [1.0],
        "protocol.flip": True,
    }
    assert protocol_settings(str(tmp_path), None)["protocol.kind"] == "whole"
    assert FinetuneConfig(augment={"short_side": 96}).protocol == WholeConfig(short_side=96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model or a folder of `predictions` is scored: got neither"),
        (["runs/x", "--predictions", "y"], "got both"),
        (["--predictions", "y", "--flip"], "`protocol` has no effect on predictions"),
        (["--predictions", "y", "--corruptions", "fog"], "`corruptions` has no effect on predictions"),
        (["x", "--set", "prediction_values=raw"], "`prediction_values` has no effect on a model"),
        (["x", "--corruptions", "fogg"], "(--corruptions): expected 'gaussian_noise'"),
        (["x", "--protocol", "slid"], "`protocol.kind` has no such kind (--protocol): got 'slid'"),
        (["x", "--scales", "1,big"], "--scales `1,big` are not numbers"),
        (["x", "--protocol", "slide", "--set", "protocol.stride=900"], "`stride` leaves gaps between windows"),
        (["--predictions", "nowhere", "--dataset", "demo"], "predictions `nowhere` are no folder"),
    ],
)
def test_wrong_questions_are_told(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_cityscapes_classes_are_known_without_its_files(tmp_path):
    assert official_labels("cityscapes") == CityscapesConfig(data_dir=tmp_path).labels()
