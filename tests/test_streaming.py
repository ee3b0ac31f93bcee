"""Streams: frame by frame they give what clips give, for one pass of the encoder a frame."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_members import MEMBERS, randomize
from PIL import Image
from test_models_backbones import TINY
from torch import Tensor, nn

from hfseg.data import FramesConfig, model_input
from hfseg.engine.inference import SlideConfig, SquashConfig, WholeConfig, resize_pixels
from hfseg.errors import ConfigError, ModelError
from hfseg.labels import LabelSpace
from hfseg.models import FrameStream, FusionModelConfig, Segmenter, StreamConfig, TmanetModelConfig
from hfseg.recipes.predict.video import ModelFrames

LABELS = LabelSpace.from_names(["road", "car", "sky"])
SIZE = (32, 48)
SLOTS = "nonlocal, slots"
HALVED = ["nonlocal, scaled, with current", "apnb", "dual", "psp"]


def built(name: str, *, memory_frames: int = 3) -> Segmenter:
    """A model around a block whose gates are open, whose classifier makes much of little."""
    torch.manual_seed(0)
    block: Any = {**MEMBERS[name], "slots": memory_frames} if name == SLOTS else MEMBERS[name]
    model = TmanetModelConfig(
        backbone="resnet", pretrained="none", overrides=TINY["resnet"], attention=block, memory_frames=memory_frames,
        auxiliary=False,
    ).build(LABELS).eval()  # fmt: skip
    randomize(model.hf.decode_head.block)
    nn.init.normal_(model.hf.decode_head.classifier.weight)
    return model


def film(length: int, *, seed: int = 0, count: int = 1) -> Tensor:
    """Frames "b t 3 h w" that have little in common."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, length, 3, *SIZE), dtype=torch.uint8, generator=generator)


def clip_wise(model: Segmenter, frames: Tensor, *, step: int = 1) -> list[Tensor]:
    """The logits of each frame's clip, in which the oldest frame stands in for those that are missing."""
    with torch.no_grad():
        return [
            model(frames[:, [max(0, last - step * back) for back in range(model.memory_frames, -1, -1)]]).logits
            for last in range(frames.shape[1])
        ]


def streamed(stream: FrameStream, frames: Tensor) -> list[Tensor]:
    return [stream(frame).logits for frame in frames.unbind(1)]


def assert_equal(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(ours) == len(expected)
    largest = max(float(each.abs().max()) for each in expected)
    for one, other in zip(ours, expected, strict=True):
        assert float((one - other).abs().max()) <= tolerance * largest


@pytest.mark.many
@pytest.mark.parametrize("name", MEMBERS)
def test_a_stream_gives_what_clips_give_from_its_first_frame_on(name: str):
    model, frames = built(name), film(6)
    expected = clip_wise(model, frames)
    assert_equal(streamed(FrameStream(model), frames), expected)
    if model.hf.decode_head.block.reads_memory:
        others = clip_wise(model, torch.cat([film(3, seed=9), frames[:, 3:]], dim=1))
        assert (expected[3] - others[3]).abs().max() > 1e-3 * expected[3].abs().max(), "what came before matters"


@pytest.mark.parametrize("name", ["nonlocal", SLOTS, "criss_cross, full"])
def test_after_a_cut_nothing_is_left_of_the_frames_before(name: str):
    model, scene = built(name), film(5, seed=1)
    stream = FrameStream(model)
    before = streamed(stream, film(4, seed=2))
    stream.reset()
    assert stream.kept_bytes == 0
    assert_equal(streamed(stream, scene), clip_wise(model, scene))
    assert len(before) == 4


@pytest.mark.many
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("name", ["nonlocal", SLOTS, "apnb", "criss_cross, separate"])
def test_memory_that_is_spaced_is_that_of_spaced_clips_at_starts_and_after_cuts(name: str, step: int):
    model = built(name, memory_frames=2)
    model.hf.config.memory_step = step  # as training leaves it
    stream = FrameStream(model)
    for scene in (film(2 * step + 4, seed=1), film(step + 2, seed=2)):
        expected = clip_wise(model, scene, step=step)
        assert_equal(streamed(stream, scene), expected)
        stream.reset()
    if step > 1:
        dense = clip_wise(model, scene)
        assert (dense[-1] - expected[-1]).abs().max() > 1e-3 * expected[-1].abs().max(), "the distance matters"
    asked = FrameStream(model, step=step + 1)
    assert_equal(streamed(asked, scene), clip_wise(model, scene, step=step + 1))


def test_frames_of_a_data_set_streamed_are_its_clips(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    numbers = [*range(7), *range(20, 25)]  # a cut lies between 6 and 20
    for number, frame in zip(numbers, film(len(numbers))[0], strict=True):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{number}.png")
        Image.new("L", SIZE[::-1]).save(tmp_path / "masks" / f"{number}.png")
    config = FramesConfig(data_dir=tmp_path, split_sizes=(1, 0, 0), frame_step=3, classes=("road", "car", "sky"))
    model = built("nonlocal", memory_frames=2)
    stream = FrameStream(model, step=3)
    for index, clip in enumerate(config.open("train").clips(2)):
        if numbers[index] == 20:
            stream.reset()
        pixels = torch.from_numpy(clip.frames.copy()).permute(0, 3, 1, 2)[None]
        with torch.no_grad():
            assert_equal([stream(pixels[:, -1]).logits], [model(pixels).logits])


@pytest.mark.slow
def test_two_hundred_frames_stay_equal():
    model, frames = built("nonlocal", memory_frames=4), film(200)
    stream = FrameStream(model)
    assert_equal(streamed(stream, frames), clip_wise(model, frames))


def test_the_ring_holds_no_more_than_the_memory():
    stream, frames = FrameStream(built("nonlocal")), film(6)
    sizes = []
    for frame in frames.unbind(1):
        stream(frame)
        sizes.append(stream.kept_bytes)
    each = (3 + 4) * (SIZE[0] // 8) * (SIZE[1] // 8) * 4
    assert sizes == [each, 2 * each, 3 * each, 3 * each, 3 * each, 3 * each]


def test_with_slots_the_encoders_maps_are_kept():
    stream, frames = FrameStream(built(SLOTS)), film(1)
    stream(frames[:, 0])
    assert stream.kept_bytes == stream.segmenter.hf.backbone.channels[-1] * (SIZE[0] // 8) * (SIZE[1] // 8) * 4


def test_a_frame_costs_one_pass_of_the_encoder():
    model, frames = built("apnb"), film(5)
    batches: list[int] = []
    stem = next(each for each in model.hf.backbone.modules() if isinstance(each, nn.Conv2d))
    stem.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    streamed(FrameStream(model), frames)
    assert batches == [1] * 5


@pytest.mark.parametrize("name", HALVED)
def test_half_precision_takes_half_the_room_and_changes_little(name: str):
    model, frames = built(name), film(6)
    whole, half = FrameStream(model), FrameStream(model, dtype=torch.float16)
    expected, ours = streamed(whole, frames), streamed(half, frames)
    assert_equal(ours, expected, tolerance=5e-3)
    assert not torch.equal(ours[-1], expected[-1])
    exact = sum(
        each.nbytes for kept in whole._kept for key, each in kept.items() if key in model.hf.decode_head.block.exact
    )
    assert half.kept_bytes == (whole.kept_bytes - exact) // 2 + exact


def test_several_videos_go_side_by_side():
    model, frames = built("dual"), film(4, count=2)
    together = streamed(FrameStream(model), frames)
    for index in range(2):
        alone = streamed(FrameStream(model), frames[index : index + 1])
        assert_equal([each[index : index + 1] for each in together], alone)


def test_a_frame_of_another_size_begins_a_video():
    model, stream = built("nonlocal"), FrameStream(built("nonlocal"))
    streamed(stream, film(3))
    wide = film(2, seed=5).repeat(1, 1, 1, 1, 2)
    assert_equal(streamed(stream, wide), clip_wise(model, wide))


def test_without_memory_a_stream_gives_what_images_give():
    model, frames = built("apnb", memory_frames=0), film(3)
    stream = FrameStream(model)
    with torch.no_grad():
        assert_equal(streamed(stream, frames), [model(frame).logits for frame in frames.unbind(1)])
    assert stream.kept_bytes == 0


def test_frames_in_memory_lie_apart():
    with pytest.raises(ValueError, match="frames in memory lie 0 apart: expected 1 or more"):
        FrameStream(built("apnb"), step=0)


def test_models_of_images_have_no_stream():
    model = FusionModelConfig(
        backbone="resnet", pretrained="none", overrides=TINY["resnet"], hidden_size=32
    ).build(LABELS)  # fmt: skip
    with pytest.raises(ModelError, match="`FusionForSemanticSegmentation` has no memory"):
        FrameStream(model)


@pytest.mark.parametrize("protocol", [WholeConfig(), WholeConfig(short_side=48), SquashConfig(size=64)])
def test_frames_are_predicted_at_their_own_size_as_their_clips_are(protocol: Any):
    model, frames = built("apnb"), film(5)
    predictor = ModelFrames(model, protocol)
    for scene in (frames, frames.flip(1)):
        predictor.reset()
        for last in range(5):
            clip = scene[:, [max(0, last - age) for age in (3, 2, 1, 0)]]
            seen = torch.stack([torch.stack([one_frame(protocol, frame) for frame in each]) for each in clip])
            with torch.no_grad():
                logits = nn.functional.interpolate(model(seen).logits, SIZE, mode="bilinear")
            pred = predictor.predict(scene[0, last].permute(1, 2, 0).contiguous().numpy())
            assert pred.shape == SIZE
            assert np.mean(pred == logits[0].argmax(0).numpy()) > 0.999


def one_frame(protocol: Any, frame: Tensor) -> Tensor:
    """A frame at the size at which the protocol shows it."""
    seen = model_input(frame.permute(1, 2, 0).contiguous().numpy(), short_side=protocol.loader_short_side)
    pixels = torch.from_numpy(seen.copy()).permute(2, 0, 1) / 255
    return resize_pixels(pixels[None], protocol._seen_size(pixels.shape[-2:], 1.0))[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_masks_of_a_memory_in_half_precision_are_hardly_others(precision: Any):
    model, frames = built("nonlocal"), film(6)
    halved = ModelFrames(model, WholeConfig(), memory=StreamConfig(precision=precision))
    whole = ModelFrames(model, WholeConfig())
    assert halved.memory_facts == {"memory": {"frames": 3, "step": 1, "precision": precision}}
    for frame in frames[0]:
        image = frame.permute(1, 2, 0).contiguous().numpy()
        assert np.mean(halved.predict(image) == whole.predict(image)) > 0.98
    assert 2 * halved._model.kept_bytes == whole._model.kept_bytes


def test_settings_of_memory_do_nothing_without_one_and_are_refused():
    with pytest.raises(ConfigError, match="`memory` has no effect: the model sees every frame by itself"):
        ModelFrames(built("apnb", memory_frames=0), WholeConfig(), memory=StreamConfig(step=2))


@pytest.mark.parametrize("protocol", [SlideConfig(), WholeConfig(flip=True), WholeConfig(scales=(0.5, 1.0))])
def test_protocols_that_show_a_frame_several_times_are_refused(protocol: Any):
    with pytest.raises(ConfigError, match="sees each frame of a video whole and once: got"):
        ModelFrames(built("apnb"), protocol)
