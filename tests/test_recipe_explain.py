"""`hfseg explain`: what it writes for images, clips and encoders, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_models_backbones import tiny
from test_models_segmenter import LABELS

from hfseg.cli.main import main
from hfseg.errors import ConfigError, DataError, ModelError
from hfseg.models import anatomy, save_model
from hfseg.recipes import explain
from hfseg.recipes.explain.opened import layer_name
from hfseg.viz.heat import heat_picture, scaled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that predicts `car` everywhere."""
    torch.manual_seed(0)
    segmenter = tiny("convnextv2").build(LABELS)
    with torch.no_grad():
        segmenter.hf.decode_head.classifier.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(segmenter, LABELS, folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def run(model: Path | None, inputs: Path | None, output: Path, **explanation: Any) -> tuple[explain.Result, list[str]]:
    said: list[str] = []
    config = explain.ExplainConfig.model_validate(
        {
            "model": None if model is None else str(model),
            "inputs": () if inputs is None else (str(inputs),),
            "output": output,
            "explanation": {"kind": "cam", **explanation},
            "runtime": {"cpu": True},
        }
    )
    return explain.run(config, progress=said.append), said


def index(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "pictures.json").read_text())


def test_each_image_gets_a_picture_of_the_largest_class_and_a_line_in_the_list(model, photos, tmp_path):
    result, _ = run(model, photos, tmp_path)
    assert [path.name for path in result.written] == ["one-cam-car.jpg", "two-cam-car.jpg"]
    assert result.skipped == ()
    assert [(line["file"], line["kind"]) for line in index(tmp_path)] == [
        ("one-cam-car.jpg", "cam"),
        ("two-cam-car.jpg", "cam"),
    ]
    assert "`car` in its predicted pixels (Seg-Grad-CAM at backbone.encoder.stages.3)" in index(tmp_path)[0]["title"]
    assert "384 of the 384 cells" in index(tmp_path)[0]["caption"]
    run(model, photos / "one.png", tmp_path, method="layercam")
    assert len(index(tmp_path)) == 2
    assert "LayerCAM" in index(tmp_path)[1]["title"]


def test_a_class_that_is_predicted_nowhere_is_refused_unless_the_region_says_otherwise(model, photos, tmp_path):
    with pytest.raises(DataError, match="`two`: class `sky` is predicted nowhere") as caught:
        run(model, photos, tmp_path, label="sky")
    assert "--region image" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
    result, _ = run(model, photos / "one.png", tmp_path, label="2", region="image")
    assert [path.name for path in result.written] == ["one-cam-sky.jpg"]


def test_an_unknown_class_names_the_closest_and_all(model, photos, tmp_path):
    with pytest.raises(DataError, match="class `cra` is not known") as caught:
        run(model, photos, tmp_path, label="cra")
    assert caught.value.hint == "did you mean `car`? its classes: 0 road, 1 car, 2 sky"


def test_a_region_outside_of_the_image_is_refused(model, photos, tmp_path):
    with pytest.raises(DataError, match="region 96,10 lies outside an image of 96 x 64 pixels"):
        run(model, photos, tmp_path, region=(96, 10))
    result, _ = run(model, photos / "one.png", tmp_path, region=(0, 0, 95, 31))
    assert "192 of the 384 cells" in index(tmp_path)[0]["caption"]
    assert len(result.written) == 1


def test_a_check_writes_curves_and_numbers(model, photos, tmp_path):
    result, said = run(model, photos / "one.png", tmp_path, check=True, check_steps=2, check_orders=2)
    assert [path.name for path in result.written] == ["one-cam-car.jpg", "one-check-car.png", "one-check-car.json"]
    facts = json.loads(result.written[2].read_text())
    assert facts["class"] == "car"
    assert len(facts["deletion"]["curve"]) == len(facts["fractions"]) == 3
    assert len(facts["insertion"]["random_curves"]) == 2
    modules = [step["module"] for step in facts["randomization"]]
    assert modules[0] == "decode_head"
    assert modules[1:5] == [f"backbone.encoder.stages.{number}" for number in (3, 2, 1, 0)]
    assert [line["kind"] for line in index(tmp_path)] == ["cam", "faithfulness"]
    assert "Removing what the map highlights lowers `car`" in said[-1]


def test_options_of_the_check_alone_do_nothing_and_are_refused(model, photos, tmp_path):
    with pytest.raises(ValueError, match="`fill` has no effect without `check`"):
        run(model, photos, tmp_path, fill="mean")


def test_receptive_fields_of_random_encoders_need_no_model_and_no_images(tmp_path):
    options = {
        "backbones": ("mit-b0", "convnextv2-atto"),
        "size": 64,
        "noise_images": 1,
        "layers": ("stage1", "stage2"),
    }
    result, _ = run(None, None, tmp_path, kind="receptive_field", **options)
    assert [path.name for path in result.written] == [
        "receptive-field-mit-b0-convnextv2-atto.png",
        "receptive-field-mit-b0-convnextv2-atto.json",
    ]
    facts = json.loads(result.written[1].read_text())
    assert facts["images"] == "1 images of noise of 64 x 64 px"
    assert [field["model"] for field in facts["fields"]] == ["mit-b0", "mit-b0", "convnextv2-atto", "convnextv2-atto"]
    assert index(tmp_path)[0]["kind"] == "receptive_field"
    assert index(tmp_path)[0]["title"].startswith("At stage")


def test_a_trained_model_stands_beside_others_over_its_images(model, photos, tmp_path):
    options = {"against": (str(model),), "layers": ("stage1", "stage4"), "size": 64}
    result, _ = run(model, photos, tmp_path, kind="receptive_field", **options)
    facts = json.loads(result.written[1].read_text())
    assert facts["images"] == "2 images of 64 x 64 px"
    assert [field["layer"] for field in facts["fields"]] == ["stage1", "stage4"] * 2
    assert facts["fields"][0]["radius_95_px"] < facts["fields"][1]["radius_95_px"]


def test_attention_is_listed_with_the_other_pictures(photos, tmp_path):
    save_model(tiny("nat").build(LABELS), LABELS, tmp_path / "nat")
    result, _ = run(tmp_path / "nat", photos / "one.png", tmp_path / "out", kind="attention", stages=(1,))
    assert [path.name for path in result.written] == ["one-attention.jpg", "one-attention.csv"]
    assert [(line["file"], line["kind"]) for line in index(tmp_path / "out")] == [("one-attention.jpg", "attention")]


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match="`model` is needed and was not given"):
        explain.ExplainConfig.load(flags={"inputs": ["photos"]})
    with pytest.raises(ConfigError, match="a receptive field needs a model, or an encoder"):
        explain.ExplainConfig.load(flags={"explanation.kind": "receptive_field"})


def test_layers_are_found_by_stage_by_place_in_the_encoder_or_head_and_by_full_name():
    hf = tiny("convnextv2").build(LABELS).hf
    last = anatomy.stages(hf)[-1]
    assert layer_name(hf, None) == layer_name(hf, "stage4") == layer_name(hf, "encoder.stages.3") == last
    assert layer_name(hf, last) == last
    assert layer_name(hf, "head.classifier") == "decode_head.classifier"
    with pytest.raises(ModelError, match="layer `stage5` is not known") as caught:
        layer_name(hf, "stage5")
    assert "stage1 to stage4 are `backbone.encoder.stages.0`" in str(caught.value.hint)
    with pytest.raises(ModelError) as caught:
        layer_name(hf, "backbone.encoder.stage.3")
    assert "did you mean `backbone.encoder.stages.3`" in str(caught.value.hint)


def test_a_clip_becomes_a_film_and_a_gif(model, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    result, said = run(model, tmp_path / "clip.mp4", tmp_path / "out", every=2)
    assert [path.name for path in result.written] == ["clip-cam-car.mp4", "clip-cam-car.gif"]
    assert "`car` is predicted in 2 of 2 frames" in said[-1]
    with av.open(str(result.written[0])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2
    with Image.open(result.written[1]) as gif:
        assert gif.n_frames == 2
    result, said = run(model, tmp_path / "clip.mp4", tmp_path / "out", label="sky")
    assert "`sky` is predicted in 0 of 4 frames" in said[-1]


def test_the_command_prints_what_it_wrote_and_tells_what_it_skipped(model, photos, tmp_path, capsys):
    image = str(photos / "one.png")
    with pytest.raises(SystemExit) as end:
        main(
            [
                "explain",
                str(model),
                image,
                "--region",
                "10,20",
                "--layer",
                "stage2",
                "-o",
                str(tmp_path),
                "--json",
                "--cpu",
            ]
        )
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"written": [str(tmp_path / "one-cam-car.jpg")], "skipped": []}
    assert "the pixel 10,20 (Seg-Grad-CAM at backbone.encoder.stages.1)" in index(tmp_path)[0]["title"]
    with pytest.raises(SystemExit) as end:
        main(["explain", str(model), image, "--class", "sky", "-o", str(tmp_path), "--cpu"])
    assert end.value.code == 2
    assert "class `sky` is predicted nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "attention", "--layer", "encoder.stages.3"], "attention is shown by stages"),
        (["--region", "10,x"], "--region `10,x`: expected predicted, image, a pixel X,Y or a box X,Y,X,Y"),
        (["--kind", "receptive-field", "--class", "car"], "`explanation.label` is not a known key (--class)"),
        (["--kind", "heat"], "`explanation.kind` has no such kind (--kind): got 'heat'"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["explain", "model", "photo.png", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_brightest_place_of_a_picture_is_that_of_its_map_and_the_rest_is_grey():
    image = np.full((60, 60, 3), 200, dtype=np.uint8)
    heat = np.full((6, 6), -1.0, dtype=np.float32)
    heat[1, 4] = 2.0
    picture = np.asarray(heat_picture(image, heat, None, title="title", note="note")).astype(int)
    colored = picture.max(2) - picture.min(2)
    top = int(np.flatnonzero((picture[:, 0] == picture[:, 0].min()).all(1))[0])
    body = colored[top : top + 480]
    row, column = np.unravel_index(body.argmax(), body.shape)
    assert (row // 80, column // 80) == (1, 4)
    assert body[:, :240].max() == 0
    assert scaled(np.zeros((2, 2), dtype=np.float32)).max() == 0
    assert all(side % 2 == 0 for side in picture.shape[:2])


def test_the_region_is_outlined_in_white():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    region = np.zeros((4, 4), dtype=bool)
    region[1:3, 1:3] = True
    plain = np.asarray(heat_picture(image, None, None, title="title", note="note")).astype(int)
    drawn = np.asarray(heat_picture(image, None, region, title="title", note="note")).astype(int)
    rows, columns = np.nonzero((drawn != plain).any(2) & (drawn == 255).all(2))
    side = drawn.shape[1]
    assert columns.min() == pytest.approx(side / 4, abs=5)
    assert columns.max() == pytest.approx(3 * side / 4, abs=5)
    assert rows.max() - rows.min() == pytest.approx(side / 2, abs=8)
