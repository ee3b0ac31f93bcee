"""Frames of video files and image sequences: all of them, at their times, upright; and files that are broken."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from clips import TIMES, number_of, picture, write_clip
from PIL import Image

from hfseg.data import read_image
from hfseg.errors import DataError
from hfseg.video import CutDetector, ImageSequence, VideoFile

av = pytest.importorskip("av")


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


def test_every_frame_comes_once_at_its_own_time_though_the_rate_varies(clip):
    video = VideoFile(clip)
    frames = list(video.frames())
    assert [number_of(frame.image) for frame in frames] == list(range(len(TIMES)))
    assert [frame.index for frame in frames] == list(range(len(TIMES)))
    assert [frame.pts * video.time_base for frame in frames] == [Fraction(time, 90000) for time in TIMES]
    assert (video.num_frames, video.problems, video.sound) == (len(TIMES), [], None)
    assert video.notes == ["the frame rate varies: every frame keeps its time"]


def test_a_constant_rate_is_nothing_to_note(tmp_path):
    video = VideoFile(write_clip(tmp_path / "even.mp4", times=range(0, 36000, 3600)))
    assert len(list(video.frames())) == 10
    assert (video.rate, video.notes, video.problems) == (25, [], [])


def test_every_third_frame_keeps_its_number_and_time(clip):
    frames = list(VideoFile(clip).frames(every=3))
    assert [(number_of(frame.image), frame.index) for frame in frames] == [(0, 0), (3, 3), (6, 6), (9, 9)]
    assert [frame.pts for frame in frames] == [TIMES[index] for index in (0, 3, 6, 9)]


def test_a_clip_can_be_read_again(clip):
    video = VideoFile(clip)
    first, second = (np.stack([frame.image for frame in video.frames()]) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, -1)),
        ((0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 1)),
        ((-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30), lambda image: np.rot90(image, 2)),
    ],
    ids=["a phone held upright: clockwise", "counterclockwise", "upside down"],
)
def test_frames_are_turned_as_the_file_says(tmp_path, matrix, turned):
    video = VideoFile(write_clip(tmp_path / "turned.mp4", times=range(0, 10800, 3600), matrix=matrix))
    for number, frame in enumerate(video.frames()):
        assert np.abs(frame.image.astype(int) - turned(picture(number))).mean() < 6
    assert len(video.notes) == 1
    assert "degrees, as the file says" in video.notes[0]


def test_of_a_file_that_was_cut_off_every_frame_that_is_there_is_given(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    whole = write_clip(tmp_path / "whole.mp4", times=range(0, 144000, 3600), draw=lambda number, h, w: noise[number])
    expected = [frame.image for frame in VideoFile(whole).frames()]
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    video = VideoFile(cut)
    found = [frame.image for frame in video.frames()]
    assert 15 < len(found) < 30
    assert all(np.array_equal(one, other) for one, other in zip(found[:-1], expected, strict=False))
    assert len(video.problems) == 1
    assert str(cut) in video.problems[0]
    assert f"ends early: {len(found)} of 40 frames are there" in video.problems[0]


def test_a_matroska_file_that_was_cut_off_is_noticed_by_its_length(tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", times=range(0, 360000, 3600), options={"g": "5"})
    assert (len(list(VideoFile(whole).frames())), VideoFile(whole).problems) == (100, [])
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    video = VideoFile(tmp_path / "cut.mkv")
    assert 20 < len(list(video.frames())) < 90
    assert len(video.problems) == 1


def test_a_broken_packet_is_named_and_the_frames_after_it_are_given(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", times=range(0, 72000, 3600), options={"g": "1", "bf": "0"})
    with av.open(str(whole)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    start, size = places[7]
    data[start : start + size] = bytes(size)
    whole.write_bytes(data)
    video = VideoFile(whole)
    numbers = [number_of(frame.image) for frame in video.frames()]
    assert numbers == [number for number in range(20) if number != 7]
    assert video.problems == [f"`{whole}` has one packet that cannot be decoded"]


def test_frames_without_times_get_the_rate_of_the_file(tmp_path):
    path = tmp_path / "raw.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
        container.mux(stream.encode(None))
    video = VideoFile(path)
    frames = list(video.frames())
    assert [number_of(frame.image) for frame in frames] == list(range(8))
    assert all(one.pts < other.pts for one, other in pairwise(frames))


def test_a_file_without_video_says_what_it_has(tmp_path):
    path = tmp_path / "sound.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(DataError, match=r"has no video stream: got audio"):
        VideoFile(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no video at all", "Invalid data"), (b"", "Invalid data"), (None, "No such file")],
    ids=["text", "empty", "missing"],
)
def test_a_file_that_is_no_video_is_an_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"video `.*x\.mp4` cannot be opened: .*{message}"):
        VideoFile(path)


def test_a_video_of_which_nothing_can_be_decoded_is_an_error(clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    clip.write_bytes(data)
    with pytest.raises(DataError, match="has no frame that can be decoded"):
        list(VideoFile(clip).frames())


def test_images_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1, 2):
        Image.fromarray(picture(number)).save(tmp_path / f"frame{number}.png")
    clip = ImageSequence(tmp_path, sorted(tmp_path.iterdir()), rate=Fraction(5), read=read_image)
    assert [number_of(frame.image) for frame in clip.frames()] == [1, 2, 9, 10]
    assert [float(frame.pts * clip.time_base) for frame in clip.frames(every=2)] == [0, 0.4]


def test_an_image_that_cannot_be_read_leaves_a_gap_and_is_named(tmp_path):
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    clip = ImageSequence(tmp_path, sorted(tmp_path.iterdir()), rate=Fraction(5), read=read_image)
    assert [frame.pts for frame in clip.frames()] == [0, 2]
    assert len(clip.problems) == 1
    assert "1.png" in clip.problems[0]


def test_a_pan_is_no_cut_and_another_scene_is():
    texture = np.asarray(
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 40, 3), dtype=np.uint8)).resize((800, 240))
    )
    detector = CutDetector()
    assert not any(detector.is_cut(texture[:, 8 * step : 320 + 8 * step]) for step in range(20))
    assert detector.is_cut(texture[:, 480:])
    assert not detector.is_cut(texture[:, 480:])
    assert detector.is_cut(texture[:200, 480:]), "another size is another scene"


def test_noise_on_an_even_surface_is_no_cut():
    draw = np.random.default_rng(2).integers
    detector = CutDetector()
    assert not any(detector.is_cut(draw(100, 120, (60, 80, 3), dtype=np.uint8)) for _ in range(5))
    assert detector.is_cut(np.zeros((60, 80, 3), np.uint8)), "an even surface of another brightness"
