"""`hfseg predict` on clips, from the command line to files: frames, times, sound, masks, and how runs end."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from clips import TIMES, decode, number_of, picture, write_clip
from PIL import Image

from hfseg.cli import main
from hfseg.engine.stop import StopWish
from hfseg.errors import ConfigError, DataError
from hfseg.labels import LabelSpace
from hfseg.models import SegformerModelConfig, save_model
from hfseg.recipes import predict
from hfseg.recipes.clip_output import VideoConfig
from hfseg.recipes.predict.video import ModelFrames, predict_clip
from hfseg.video import FramePredictor, VideoFile

pytestmark = pytest.mark.slow

av = pytest.importorskip("av")

LABELS = LabelSpace.from_names(["background", "one", "two"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("model") / "random"
    segmenter = SegformerModelConfig(backbone="mit-b0", pretrained="none").build(LABELS)
    segmenter.hf.decode_head.classifier.weight.data.mul_(30)
    save_model(segmenter, LABELS, folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", sound="aac")


def run(model, output, *inputs, **settings):
    config = predict.PredictConfig.load(
        flags={"model": model, "inputs": [str(path) for path in inputs], "output": str(output), **settings}
    )
    return predict.run(config, progress=lambda text: None)


def command(*arguments, code=0):
    with pytest.raises(SystemExit) as end:
        main(["predict", *map(str, arguments)])
    assert end.value.code == code


def test_a_clip_becomes_a_video_of_the_same_frames_and_a_report(model, clip, tmp_path):
    result = run(model, tmp_path, clip, **{"video.view": "original"})
    assert [path.name for path in result.written] == ["clip-original.mp4", "clip-consistency.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip-consistency.json", "clip-original.mp4"]
    found = decode(tmp_path / "clip-original.mp4")
    assert [number_of(image) for _, image in found] == list(range(len(TIMES)))
    assert [round(time * 90000) for time, _ in found] == list(TIMES)
    report = json.loads((tmp_path / "clip-consistency.json").read_text())
    assert (report["frames"], report["problems"], report["notes"][0][:21]) == (len(TIMES), [], "the frame rate varies")
    assert (report["model"], report["protocol"], report["smoothing"]) == (model, "whole image, native size", 0)
    with av.open(str(tmp_path / "clip-original.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]
    assert result.is_complete


def test_masks_are_those_of_the_frames_as_images(model, clip, tmp_path):
    run(model, tmp_path / "out", clip, **{"video.masks": True, "video.every": 4})
    masks = sorted((tmp_path / "out" / "clip-masks").iterdir())
    assert [path.name for path in masks] == ["000000.png", "000004.png", "000008.png"]
    frames = [image for _, image in decode(clip)][::4]
    for number, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    run(model, tmp_path / "images", *(tmp_path / f"{number}.png" for number in range(3)))
    for number, path in enumerate(masks):
        expected = np.asarray(Image.open(tmp_path / "images" / f"{number}.png"))
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)


def test_a_folder_of_images_is_a_clip_when_asked_for_and_images_otherwise(model, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(picture(number)).save(frames / f"{number}.png")
    result = run(model, tmp_path / "out", frames, **{"video.as_video": True, "video.fps": 10, "video.view": "original"})
    assert [path.name for path in result.written] == ["frames-original.mp4", "frames-consistency.json"]
    found = decode(result.written[0])
    assert [(number_of(image), float(time)) for time, image in found] == [(1, 0), (2, 0.1), (10, 0.2)]
    assert len(run(model, tmp_path / "images", frames).written) == 9


def test_images_and_clips_can_be_given_together(model, clip, tmp_path):
    Image.fromarray(picture(5)).save(tmp_path / "photo.png")
    names = [
        path.name for path in run(model, tmp_path / "out", tmp_path / "photo.png", clip, **{"video.every": 6}).written
    ]
    assert names == ["photo.png", "photo-overlay.jpg", "photo-side.jpg", "clip-side.mp4", "clip-consistency.json"]


def test_an_image_that_is_too_small_for_the_model_is_named_and_the_others_are_predicted(model, tmp_path):
    Image.fromarray(picture(5)[:5, :7]).save(tmp_path / "a.png")
    Image.fromarray(picture(5)).save(tmp_path / "b.png")
    said = []
    flags = {"model": model, "inputs": [str(tmp_path)], "output": str(tmp_path / "out")}
    result = predict.run(predict.PredictConfig.load(flags=flags), progress=said.append)
    assert result.skipped == (str(tmp_path / "a.png"),)
    assert "images of 5 x 7 pixels are too small for `SegformerForSemanticSegmentation`" in said[0]
    assert [path.name for path in result.written] == ["b.png", "b-overlay.jpg", "b-side.jpg"]


def test_odd_sides_get_one_more_pixel_and_it_is_said(model, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.fromarray(picture(3, 49, 65)).save(frames / "1.png")
    run(model, tmp_path / "out", frames, **{"video.as_video": True, "video.view": "original"})
    assert decode(tmp_path / "out" / "frames-original.mp4")[0][1].shape == (50, 66, 3)
    assert "65 x 49 pixels: an odd side gets one more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [{"protocol.kind": "slide", "protocol.crop_size": 32}, {"protocol.kind": "whole", "protocol.short_side": 32}],
)
def test_a_clip_is_shown_under_the_protocol_that_was_asked_for(model, clip, tmp_path, settings):
    run(model, tmp_path / "out", clip, **{"video.masks": True, "video.every": 6}, **settings)
    Image.fromarray(decode(clip)[6][1]).save(tmp_path / "frame.png")
    run(model, tmp_path / "images", tmp_path / "frame.png", **settings)
    one, other = (Image.open(tmp_path / path) for path in ("out/clip-masks/000006.png", "images/frame.png"))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_smoothing_makes_predictions_steadier(model, tmp_path):
    noise = np.random.default_rng(0)
    still = picture(37)
    clip = write_clip(
        tmp_path / "noisy.mp4",
        times=range(0, 36000, 3600),
        draw=lambda number, h, w: np.clip(still + noise.normal(0, 25, still.shape), 0, 255).astype(np.uint8),
    )
    alone = run(model, tmp_path / "alone", clip).clips[0].consistency
    smooth = run(model, tmp_path / "smooth", clip, **{"smoothing.decay": 0.8}).clips[0].consistency
    assert alone["cuts"] == smooth["cuts"] == []
    assert 1 - smooth["pixels_kept"] < 0.6 * (1 - alone["pixels_kept"])


def test_the_predictor_forgets_at_a_cut(model, tmp_path):
    dark, light = np.full((48, 64, 3), 20, np.uint8), picture(170)
    clip = write_clip(
        tmp_path / "two.mp4", times=range(0, 21600, 3600), draw=lambda number, h, w: dark if number < 3 else light
    )
    results = {}
    for decay in (0, 0.9):
        result = run(model, tmp_path / str(decay), clip, **{"smoothing.decay": decay, "video.masks": True})
        assert result.clips[0].consistency["cuts"] == [3]
        results[decay] = np.asarray(Image.open(tmp_path / str(decay) / "two-masks" / "000003.png"))
    np.testing.assert_array_equal(results[0], results[0.9])


def test_a_clip_that_was_cut_off_is_kept_named_and_tells_with_its_exit_code(model, tmp_path, capsys):
    noise = np.random.default_rng(0)

    def rough(number, height, width):
        image = picture(number)
        image[32:] = noise.integers(0, 256, image[32:].shape)
        return image

    whole = write_clip(tmp_path / "whole.mp4", times=range(0, 108000, 3600), draw=rough, options={"g": "1"})
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    command(model, tmp_path / "cut.mp4", "--output", tmp_path / "out", "--video-view", "original", code=1)
    numbers = [number_of(image) for _, image in decode(tmp_path / "out" / "cut-original.mp4")]
    assert 5 < len(numbers) < 29
    assert numbers[:-1] == list(range(len(numbers) - 1))
    said = capsys.readouterr()
    assert f"incomplete: `{tmp_path / 'cut.mp4'}`" in said.err
    assert "cut-original.mp4" in said.out


def test_what_is_no_video_is_named_and_the_others_are_predicted(model, clip, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    command(model, tmp_path / "bad.mp4", clip, "--every", "6", "--output", tmp_path / "out", "--json", code=1)
    said = capsys.readouterr()
    assert "bad.mp4` cannot be opened: Invalid data" in said.err
    result = json.loads(said.out)
    assert result["skipped"] == [str(tmp_path / "bad.mp4")]
    assert [found["frames"] for found in result["clips"]] == [2]


def test_how_steady_the_predictions_are_is_printed(model, clip, tmp_path, capsys):
    command(model, clip, "--every", "3", "--output", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split() == ["clip", "frames", "cuts", "pixels", "kept", "mIoU", "to", "next"]
    assert lines[-1].split()[:2] == ["clip.mp4", "4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"video.fps": 5}, "`fps` has no effect without `as_video`"),
        ({"video.stdout": True, "video.masks": True}, "`masks` has no effect with `stdout`"),
        ({"labels_dir": "masks"}, "`labels_dir` has no effect: it is for images, and the inputs are videos"),
        ({"batch_size": 2}, "`batch_size` has no effect"),
    ],
)
def test_a_setting_without_effect_on_a_clip_is_an_error(model, clip, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(model, tmp_path, clip, **settings)


def test_settings_of_clips_are_errors_without_a_clip(model, clip, tmp_path):
    Image.fromarray(picture(5)).save(tmp_path / "photo.png")
    with pytest.raises(ConfigError, match="`video` has no effect: it is for videos, and the inputs are images"):
        run(model, tmp_path, tmp_path / "photo.png", **{"video.every": 2})
    with pytest.raises(ConfigError, match="`smoothing` has no effect"):
        run(model, tmp_path, tmp_path / "photo.png", **{"smoothing.decay": 0.5})
    with pytest.raises(DataError, match="no input is a folder of images: got 1 videos"):
        run(model, tmp_path, clip, **{"video.as_video": True})
    with pytest.raises(ConfigError, match=r"`video.stdout` takes one clip: got 1 images and 1 clips"):
        run(model, tmp_path, tmp_path / "photo.png", clip, **{"video.stdout": True})


def test_a_model_under_a_protocol_is_a_frame_predictor():
    assert issubclass(ModelFrames, FramePredictor)


class Failing:
    """Predicts six frames and then cannot go on."""

    def __init__(self):
        self.count = 0

    def predict(self, image):
        self.count += 1
        if self.count > 6:
            raise RuntimeError("out of memory")
        return np.zeros(image.shape[:2], np.int32)

    def reset(self):
        pass


def test_after_an_error_of_the_model_the_video_holds_the_frames_before_it(clip, tmp_path):
    config = VideoConfig(view="original")
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_clip(VideoFile(clip), Failing(), LABELS, config, tmp_path / "clip", about={}, wish=StopWish())
    numbers = [number_of(image) for _, image in decode(tmp_path / "clip-original.mp4")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) <= 6


def test_frames_that_change_size_are_drawn_at_the_size_of_the_first(model, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.fromarray(picture(1)).save(frames / "1.png")
    Image.fromarray(picture(2).repeat(2, 0).repeat(2, 1)).save(frames / "2.png")
    result = run(model, tmp_path / "out", frames, **{"video.as_video": True, "video.view": "original"})
    assert [number_of(image) for _, image in decode(result.written[0])] == [1, 2]
    assert result.clips[0].consistency["cuts"] == [1]
    assert result.clips[0].consistency["notes"] == ["frames change size: all are drawn at 64 x 48 pixels"]


def started(*arguments, **streams):
    code = "import sys; from hfseg.cli import main; main(sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, "predict", *map(str, arguments)], env=os.environ, **streams)


def test_raw_masks_on_the_standard_output_are_the_masks_and_nothing_else(model, clip, tmp_path):
    done = started(model, clip, "--stdout", "--every", "5", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    raw, said = done.communicate(timeout=300)
    assert done.returncode == 0, said.decode()
    run(model, tmp_path, clip, **{"video.masks": True, "video.every": 5})
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "clip-masks").iterdir())]
    assert raw == b"".join(mask.astype(np.uint8).tobytes() for mask in masks)
    assert len(raw) == 3 * 48 * 64
    assert b"raw masks: 64 x 48 pixels, uint8" in said
    assert b"pixels kept" in said


def test_raw_masks_and_json_do_not_share_the_standard_output(model, clip, capsys):
    command(model, clip, "--stdout", "--json", code=2)
    assert "--stdout and --json both want the standard output" in capsys.readouterr().err


def test_ctrl_c_leaves_a_file_that_plays(model, tmp_path):
    clip = write_clip(tmp_path / "long.mp4", times=range(0, 3600 * 2000, 3600), sound="aac")
    done = started(model, clip, "--output", tmp_path / "out", "--video-view", "original", stderr=subprocess.PIPE)
    video = tmp_path / "out" / "long-original.mp4"
    deadline = time.monotonic() + 240
    while not video.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    done.send_signal(signal.SIGINT)
    said = done.communicate(timeout=120)[1].decode()
    assert done.returncode == 130, said
    numbers = [number_of(image) for _, image in decode(video)]
    assert numbers == [number % 256 for number in range(len(numbers))]
    assert f"stopped after {len(numbers)} frames" in said
    assert "holds them and plays" in said
