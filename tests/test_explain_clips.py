"""`hfseg explain` of models with memory: what is explained of a clip, and where the frames before come from."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_streaming import LABELS, built, film
from torch import Tensor

from hfseg.errors import ConfigError, ModelError
from hfseg.explain import find_layer, measure_faithfulness, observing
from hfseg.models import Segmenter, save_model
from hfseg.recipes import explain
from hfseg.recipes.explain.clips import shown_frames
from hfseg.video import ImageSequence

pytestmark = pytest.mark.slow

STAGE = "hf.backbone.encoder.stages.3"


def heat(model: Segmenter, pixel_values: Tensor, name: str = STAGE) -> Tensor:
    """The map of class 1 over the whole picture, by HiResCAM."""
    layer = find_layer(model, name, pixel_values)
    with observing(model, layer, pixel_values) as seen:
        return seen.explain(1, torch.ones_like(seen.logits[0, 0], dtype=torch.bool), "hirescam")


@pytest.mark.parametrize("name", ["nonlocal", "dual", "criss_cross, full"])
def test_the_map_is_of_the_current_frame_and_depends_on_what_came_before(name: str):
    model, clip = built(name), film(4) / 255
    other = torch.cat([film(3, seed=7) / 255, clip[:, -1:]], dim=1)
    ours, theirs = heat(model, clip), heat(model, other)
    assert ours.shape == (4, 6)
    assert (ours - theirs).abs().max() > 1e-3 * ours.abs().max()


def test_the_map_is_the_gradient_with_respect_to_the_current_frames_features():
    model, clip = built("nonlocal"), film(4) / 255
    hf, block = model.hf, model.hf.decode_head.block
    with torch.no_grad():
        frames = hf.encode(model.normalize(clip[0]))
        memory = block.encode(type(frames)(frames.high[None, :-1], frames.low[None, :-1]))
    high = frames.high[-1:].requires_grad_()
    prepared = block.prepare(type(frames)(high, frames.low[-1:]))
    score = hf.decode_head.classify(block.read(prepared, memory))[0, 1].sum()
    (gradient,) = torch.autograd.grad(score, high)
    expected = (gradient * high.detach()).sum(1)[0]
    assert torch.allclose(heat(model, clip), expected, atol=1e-5 * float(expected.abs().max()))


def test_in_image_mode_a_clip_of_one_frame_is_the_image():
    model, image = built("nonlocal", memory_frames=0), film(1)[:, 0] / 255
    assert torch.allclose(heat(model, image[:, None]), heat(model, image), atol=1e-6)
    with_memory = built("nonlocal")
    assert torch.allclose(heat(with_memory, image[:, None]), heat(with_memory, image), atol=1e-6)
    assert torch.allclose(heat(model, image), heat(with_memory, image), atol=1e-6)


def test_what_follows_the_read_has_one_map_and_what_only_memory_goes_through_is_refused():
    for count in (1, 3):
        model, clip = built("nonlocal", memory_frames=count), film(count + 1) / 255
        assert heat(model, clip, "hf.decode_head.block.bottleneck").shape == (4, 6)
        for inside in ("block.memory.key", "block.memory"):
            with pytest.raises(ModelError, match="gives no map of the current frame|gives 2 maps"):
                heat(model, clip, f"hf.decode_head.{inside}")
    with pytest.raises(ModelError, match="gives no map of the current frame when the model is shown clips"):
        heat(built("apnb"), film(4) / 255, "hf.decode_head.block.narrow")


def test_pixels_of_the_current_frame_are_removed_and_memory_stays():
    model, clip = built("dual"), film(4) / 255
    shown: list[Tensor] = []
    model.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0].clone()))
    region = torch.ones(4, 6, dtype=torch.bool)
    found = measure_faithfulness(model, clip, torch.rand(4, 6), region, 1, steps=2, seeds=(0,))
    assert len(found.deletion.map) == 3
    assert all(torch.equal(each[:, :-1], clip[:, :-1]) for each in shown)
    assert torch.equal(shown[0], clip)
    assert not torch.equal(shown[2][:, -1], clip[:, -1])


def sequence(folder: Path, frames: Tensor) -> ImageSequence:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames[0]):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    images = sorted(folder.glob("*.png"))
    return ImageSequence(folder, images, rate=Fraction(10), read=lambda path: np.asarray(Image.open(path)))


def test_frames_in_memory_are_as_far_apart_as_in_training_and_end_at_cuts(tmp_path: Path):
    model = built("nonlocal", memory_frames=2)
    model.hf.config.memory_step = 2
    rows = torch.arange(48).repeat(32, 1)
    scenes = [(rows if number < 6 else 47 - rows) * 5 + number for number in range(9)]  # another picture from 6 on
    frames = torch.stack([scene.expand(3, 32, 48) for scene in scenes])[None].to(torch.uint8)
    shown = list(shown_frames(sequence(tmp_path / "clip", frames), model, every=3))
    assert [frame.index for frame, _ in shown] == [0, 3, 6]
    first = [pixels[:, 0, 0, 0].tolist() for _, pixels in shown]
    assert first == [[0, 0, 0], [0, 1, 3], [241, 241, 241]]
    images = list(shown_frames(sequence(tmp_path / "again", frames), built("nonlocal", memory_frames=0), every=3))
    assert all(pixels.ndim == 3 for _, pixels in images)


def test_an_image_that_is_repeated_speaks_through_all_of_its_frames_as_it_does_alone():
    """Why an image is shown once: frames in memory that are copies of it hold a part of what speaks for a class."""
    model, image = built("nonlocal"), film(1)[:, 0] / 255
    clip = image[:, None].expand(-1, 4, -1, -1, -1)
    layer = find_layer(model, STAGE, clip)
    with observing(model, layer, clip) as seen:
        (gradient,) = torch.autograd.grad(seen.logits[0, 1].sum(), seen.held)
        summed = (gradient.sum(0) * seen.held[0].detach()).sum(0)
    alone = heat(model, image)
    assert torch.allclose(summed, alone, atol=1e-4 * float(alone.abs().max()))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "memory"
    save_model(built("nonlocal", memory_frames=2), LABELS, folder)
    return folder


def run(model: Path, output: Path, **settings: Any) -> explain.Result:
    kind = settings.pop("kind", "cam")
    own = {"kind": kind} | ({"label": "car", "region": "image"} if kind == "cam" else {})
    config = {"model": str(model), "output": output, "explanation": own, "runtime": {"cpu": True}, **settings}
    return explain.run(explain.ExplainConfig.model_validate(config), progress=lambda _text: None)


def test_samples_of_a_data_set_are_explained_with_the_frames_before_them(saved: Path, tmp_path: Path):
    sequence(tmp_path / "data" / "images", film(5))
    (tmp_path / "data" / "masks").mkdir()
    Image.new("L", (48, 32)).save(tmp_path / "data" / "masks" / "004.png")
    data = {"kind": "frames", "data_dir": tmp_path / "data", "classes": ["road", "car", "sky"]}
    named = {"data": {**data, "split_sizes": (1, 0, 0)}, "split": "train"}
    result = run(saved, tmp_path / "out", **named)
    assert [path.name for path in result.written] == ["004-cam-car.jpg"]
    alone = run(saved, tmp_path / "alone", inputs=(str(tmp_path / "data" / "images" / "004.png"),))
    pictures = [np.asarray(Image.open(each.written[0])).astype(int) for each in (result, alone)]
    assert not np.array_equal(*pictures), "another past, another map"
    table = run(saved, tmp_path / "out", **named, kind="attention")
    assert [path.name for path in table.written] == ["004-attention.jpg", "004-attention.csv"]
    assert [line["kind"] for line in json.loads((tmp_path / "out" / "pictures.json").read_text())] == [
        "cam", "attention"
    ]  # fmt: skip


def test_a_folder_of_frames_is_one_clip_where_that_is_said(saved: Path, tmp_path: Path):
    pytest.importorskip("av")
    sequence(tmp_path / "drive", film(3))
    result = run(saved, tmp_path / "out", inputs=(str(tmp_path / "drive"),), as_video=True, fps=5)
    assert [path.name for path in result.written] == ["drive-cam-car.mp4", "drive-cam-car.gif"]


def test_settings_without_effect_and_data_that_is_not_known_are_refused(saved: Path, tmp_path: Path):
    for settings, message in (({"samples": 2}, "`samples` has no effect"), ({"fps": 5}, "`fps` has no effect")):
        with pytest.raises(ValueError, match=message):
            run(saved, tmp_path, inputs=("photo.png",), **settings)
    with pytest.raises(ConfigError, match="is not a run of hfseg, so its data set is not known"):
        run(saved, tmp_path, split="test")
