"""Files that are written: what players need, times, sound, colours; and what cannot be written."""

import re
from fractions import Fraction

import numpy as np
import pytest
from clips import TIMES, decode, number_of, picture, write_clip

from hfseg.errors import ConfigError, RunFailed
from hfseg.video import VideoFile, VideoWriter

av = pytest.importorskip("av")


def copied(source, target, *, every=1, stop=None):
    clip = VideoFile(source)
    writer = VideoWriter(target, clip, size=(48, 64), every=every)
    for frame in clip.frames(every=every):
        if frame.index == stop:
            writer.close()
            return writer
        writer.write(frame.image, frame.pts)
    writer.finish()
    writer.close()
    return writer


def sound_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_frames_keep_their_number_content_and_times(tmp_path):
    copied(write_clip(tmp_path / "clip.mp4"), tmp_path / "out.mp4")
    found = decode(tmp_path / "out.mp4")
    assert [number_of(image) for _, image in found] == list(range(len(TIMES)))
    assert [time for time, _ in found] == [Fraction(time, 90000) for time in TIMES]


def test_every_player_can_play_it_and_begin_before_it_has_all(tmp_path):
    copied(write_clip(tmp_path / "clip.mp4"), tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "out.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 64, 48)
        assert (codec.colorspace, codec.color_range) == (1, 1)


def test_sound_is_copied_byte_by_byte(tmp_path):
    source = write_clip(tmp_path / "clip.mp4", sound="aac")
    assert copied(source, tmp_path / "out.mp4").notes == []
    assert len(sound_of(source)) > 30
    assert sound_of(tmp_path / "out.mp4") == sound_of(source)


def test_damaged_sound_is_left_out_and_counted(tmp_path):
    source = write_clip(tmp_path / "clip.ts", times=range(0, 36000, 3600), sound="aac")
    data = bytearray(source.read_bytes())
    data[4000:5500] = bytes(1500)
    source.write_bytes(data)
    notes = copied(source, tmp_path / "out.mp4").notes
    assert len(notes) == 1, notes
    assert re.fullmatch(r"[1-9]\d* damaged packets of sound are left out", notes[0])
    assert sound_of(tmp_path / "out.mp4")


def test_a_clip_that_is_stopped_has_sound_as_long_as_its_frames(tmp_path):
    source = write_clip(tmp_path / "clip.mp4", times=range(0, 36000, 3600), sound="aac")
    copied(source, tmp_path / "out.mp4", stop=5)
    kept, whole = sound_of(tmp_path / "out.mp4"), sound_of(source)
    assert len(decode(tmp_path / "out.mp4")) == 5
    assert kept == whole[: len(kept)]
    assert len(kept) * 1024 / 44100 == pytest.approx(5 / 25, abs=0.06)


def test_sound_that_no_mp4_can_hold_is_left_out_and_named(tmp_path):
    source = write_clip(tmp_path / "clip.avi", sound="pcm_mulaw")
    assert copied(source, tmp_path / "out.mp4").notes == ["sound `pcm_mulaw` does not fit into an mp4 and is left out"]
    assert len(decode(tmp_path / "out.mp4")) == len(TIMES)


def test_frames_that_were_left_out_lengthen_those_before(tmp_path):
    copied(write_clip(tmp_path / "clip.mp4", times=range(0, 43200, 3600)), tmp_path / "out.mp4", every=4)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.duration * stream.time_base) == (3, Fraction(12, 25))


def test_colours_come_back(tmp_path):
    colors = np.asarray([(200, 30, 40), (30, 180, 60), (40, 50, 220), (250, 250, 20)], np.uint8)
    image = np.repeat(np.repeat(colors[None], 48, 0), 16, 1)
    clip = VideoFile(write_clip(tmp_path / "clip.mp4"))
    with VideoWriter(tmp_path / "out.mp4", clip, size=(48, 64)) as writer:
        for frame in clip.frames():
            writer.write(image, frame.pts)
    for _, found in decode(tmp_path / "out.mp4"):
        assert np.abs(found[24, 8::16].astype(int) - colors).max() <= 5


def test_pixels_that_are_not_square_stay_so(tmp_path):
    clip = VideoFile(write_clip(tmp_path / "clip.mp4"))
    clip.pixel_aspect = Fraction(128, 117)
    with VideoWriter(tmp_path / "out.mp4", clip, size=(48, 64)) as writer:
        writer.write(picture(0), 0)
    assert VideoFile(tmp_path / "out.mp4").pixel_aspect == Fraction(128, 117)


def test_the_clip_itself_is_never_replaced(tmp_path):
    source = write_clip(tmp_path / "clip.mp4")
    before = source.read_bytes()
    with pytest.raises(ConfigError, match="would replace the video it is made from"):
        VideoWriter(source, VideoFile(source), size=(48, 64))
    assert source.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    clip = VideoFile(write_clip(tmp_path / "clip.mp4"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match=r"video `.*file/out\.mp4` cannot be written"):
        VideoWriter(tmp_path / "file" / "out.mp4", clip, size=(48, 64))


def test_odd_sides_are_a_wrong_call(tmp_path):
    clip = VideoFile(write_clip(tmp_path / "clip.mp4"))
    with pytest.raises(ValueError, match="expected even sides"):
        VideoWriter(tmp_path / "out.mp4", clip, size=(47, 64))
