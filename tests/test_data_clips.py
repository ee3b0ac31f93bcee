"""Clips from the data sets that know their sequences: which frames, cut and coloured how, and what is refused."""

import json
import logging
import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import CITY_FRAMES, made_camvid, made_cityscapes, painted_camvid, write, zip_up
from PIL import Image
from pydantic import ValidationError

from hfseg.config import Config
from hfseg.data import (
    AugmentConfig,
    CamvidConfig,
    CityscapesConfig,
    Corruption,
    DataConfig,
    FramesConfig,
    LoaderConfig,
    Photometric,
    Skips,
    eval_loader,
    train_loader,
    verify,
)
from hfseg.data.clips import Frame, Sequences, by_place
from hfseg.errors import ConfigError, DataError
from hfseg.values import Clip, Sample

ONE_AT_A_TIME = LoaderConfig(batch_size=4, eval_batch_size=4, workers=0)


def picture(number, size=(24, 32)):
    """An image whose pixels say its number, and its columns: both survive a PNG."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0], image[..., 1] = number, np.linspace(0, 255, size[1]).astype(np.uint8)
    return image


def made_frames(root, names, *, labelled=None, size=(24, 32)):
    """Write frames `SEQUENCE/NUMBER`, and masks of two classes for those that are `labelled`, or for all."""
    for name in names:
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(int(Path(name).name[-3:]), size)).save(path)
    for name in names if labelled is None else labelled:
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.resize(np.array([0, 0, 1], np.uint8), size)).save(path)
    return root


def numbers(count, *, first=0, sequence=""):
    return [f"{sequence}{number:06d}" for number in range(first, first + count)]


def before(dataset):
    """The stems of the frames before each sample, by id."""
    records = [dataset.record(index) for index in range(len(dataset))]
    return {record.id: [Path(source["path"]).stem for source in record.before] for record in records}


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Forty frames, of which the first four have no mask."""
    names = numbers(40)
    return made_frames(tmp_path_factory.mktemp("street"), names, labelled=names[4:])


def street_config(street, **settings):
    return FramesConfig(data_dir=street, classes=("road", "car"), split_gap=3, **settings)


# Which frames


@pytest.mark.parametrize(
    ("name", "sequence", "number"),
    [
        ("000470", "", 470),
        ("0016E5_07959", "0016E5", 7959),
        ("Seq05VD_f00030", "Seq05VD_f", 30),
        (Path("drive/000123"), "drive", 123),
        ("drive_000123", "drive", 123),
    ],
)
def test_the_place_of_a_frame_is_read_from_its_name(name, sequence, number):
    assert Frame.of(name) == (sequence, number)
    with pytest.raises(DataError, match="`left` ends in no number"):
        Frame.of("left")


def test_two_files_of_one_place_are_an_error():
    with pytest.raises(DataError, match="two files are frame 7 of sequence `a`: got `x.png` and `y.png`"):
        by_place([("a_07", "x.png"), (Path("a/7"), "y.png")])
    with pytest.raises(DataError, match="two files are frame 7: got `x.png` and `y.png`"):
        by_place([("07", "x.png"), (Path("7"), "y.png")])


def test_the_first_frames_of_a_sequence_repeat_the_oldest_one_they_have():
    sequences = Sequences({Frame("a", number): str(number) for number in range(6)}, max_gap=1)
    assert sequences.before(Frame("a", 5), 3, step=1) == ["2", "3", "4"]
    assert sequences.before(Frame("a", 1), 3, step=1) == ["0", "0", "0"]
    assert sequences.before(Frame("a", 0), 2, step=1) == ["0", "0"]
    assert sequences.before(Frame("a", 5), 3, step=2) == ["0", "1", "3"]


@pytest.mark.parametrize(("max_gap", "expected"), [(1, ["9", "9"]), (4, ["5", "9"])])
def test_clips_do_not_cross_a_gap_in_the_numbers(max_gap, expected):
    sequences = Sequences({Frame("a", number): str(number) for number in (4, 5, 9, 10)}, max_gap=max_gap)
    assert sequences.before(Frame("a", 10), 2, step=1) == expected


def test_clips_do_not_cross_from_one_sequence_to_another(tmp_path):
    made_frames(tmp_path, [*numbers(3, sequence="a/"), *numbers(3, first=3, sequence="b/")])
    (tmp_path / "train.txt").write_text("a/000002.png\nb_000003\nb/000005\n")
    (tmp_path / "val.txt").write_text("a/000001\n")
    config = FramesConfig(data_dir=tmp_path)
    found = before(config.open("train").clips(2))
    assert found == {"a_000002": ["000000", "000001"], "b_000003": ["000003"] * 2, "b_000005": ["000003", "000004"]}
    assert before(config.open("validation").clips(1)) == {"a_000001": ["000000"]}


# The kind `frames`


def test_frames_without_masks_are_memory_of_those_that_have_one(street):
    clip = street_config(street, frame_step=2).open("train").clips(2)[0]
    assert isinstance(clip, Clip)
    assert clip.id == "000004"
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 2, 4]
    assert np.array_equal(clip.image, picture(4))
    assert clip.pixels is clip.frames
    assert clip.labels.shape == (24, 32)


PARTS = ("train", "validation", "test")


def test_masks_that_would_share_a_name_are_an_error(tmp_path):
    made_frames(tmp_path, ["a/1_002", "a_1/002"])
    with pytest.raises(DataError, match=r"two masks are called `a_1_002`: got `.*a/1_002.png` and `.*a_1/002.png`"):
        FramesConfig(data_dir=tmp_path, split_sizes=(1, 0, 0)).open("train")


def test_a_sequence_is_divided_in_time_with_a_gap(street):
    parts = [[int(name) for name in street_config(street).open(part).table["id"]] for part in PARTS]
    assert parts == [list(range(4, 26)), list(range(29, 33)), list(range(36, 40))]
    shares = street_config(street, split_sizes=(3, 1, 0))
    assert [len(shares.open(part)) for part in PARTS[:2]] == [27, 6]
    with pytest.raises(DataError, match=r"no `test` part: 36 labelled frames are divided in time into \[3.0, 1.0, 0.0"):
        shares.open("test")


def test_lists_name_the_parts_of_frames(street, tmp_path):
    root = shutil.copytree(street, tmp_path / "listed")
    (root / "train.txt").write_text("\n".join(numbers(20, first=10)))
    assert street_config(root).open("train").table["id"][0] == "000010"  # the listed ones alone are divided in time
    (root / "test.txt").write_text("000035\n000036\n")
    with pytest.raises(DataError, match=r"has lists of its parts: `data.split_sizes` and `data.split_gap` do nothing"):
        street_config(root).open("test")
    config = FramesConfig(data_dir=root, classes=("road", "car"))
    assert [len(config.open(part)) for part in ("train", "test")] == [20, 2]
    with pytest.raises(DataError, match=r"has no `validation` part: found train.txt, test.txt"):
        config.open("validation")
    (root / "test.txt").write_text("000001\n")
    with pytest.raises(DataError, match=r"test.txt` names `000001`: no mask of that name"):
        config.open("test")


def test_frames_that_are_not_there_are_an_error(street, tmp_path):
    with pytest.raises(DataError, match="no frames in .*: looked for .*images") as caught:
        FramesConfig(data_dir=tmp_path).open("train")
    assert "masks of some or all of them in masks/" in caught.value.hint
    root = shutil.copytree(street, tmp_path / "lonely")
    (root / "images" / "000005.png").unlink()
    with pytest.raises(DataError, match=r"1 have none, such as `.*masks/000005.png`"):
        street_config(root).open("train")
    with pytest.raises(ValidationError, match="`split_sizes` leaves nothing to train on"):
        street_config(street, split_sizes=(0, 1, 0))


# Frames of a video file


def test_a_video_with_sparse_labels_gives_clips(tmp_path):
    av = pytest.importorskip("av")
    (tmp_path / "images").mkdir()
    with av.open(str(tmp_path / "images" / "drive.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10, width=32, height=24, pix_fmt="bgr0", options={"g": "12"})
        for number in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    made_frames(tmp_path, [], labelled=["drive/050", "drive_000001", "drive/007"])
    dataset = FramesConfig(data_dir=tmp_path, split_sizes=(1, 0, 0), frame_step=3).open("train").clips(2)
    clips = {clip.id: clip for clip in (dataset[index] for index in (2, 0, 1))}
    assert {name: clip.frames[:, 0, 0, 0].tolist() for name, clip in clips.items()} == {
        "drive_000001": [0, 0, 1],
        "drive_007": [1, 4, 7],
        "drive_050": [44, 47, 50],
    }
    assert np.array_equal(clips["drive_050"].image, picture(50))
    assert verify(dataset, workers=2).num_images == 3
    batches = list(eval_loader(dataset, LoaderConfig(workers=2, eval_batch_size=1)))
    assert [batch.images[0, 0, 0, 0].item() for batch in batches] == [1, 7, 50]
    made_frames(tmp_path, [], labelled=["drive/060"])
    with pytest.raises(DataError, match="1 have none, such as `.*drive/060.png`"):
        FramesConfig(data_dir=tmp_path).open("train")


def test_videos_need_pyav(street, tmp_path, monkeypatch):
    root = shutil.copytree(street, tmp_path / "video")
    (root / "images" / "more.mp4").write_bytes(b"no video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="videos need `av`") as caught:
        street_config(root).open("train")
    assert caught.value.hint == "pip install 'hfseg[video]'"


# CamVid and Cityscapes


CAM_CLIPS = {
    "train": ["0001TP_008460", "0001TP_008490", "0001TP_008520", "0016E5_02400", "0016E5_04350"],
    "val": ["0016E5_04380"],
    "test": ["0001TP_008550", "Seq05VD_f00000"],
}
CAM_BEFORE = {
    "0001TP_008460": ["0001TP_008460", "0001TP_008460"],
    "0001TP_008490": ["0001TP_008460", "0001TP_008460"],
    "0001TP_008520": ["0001TP_008460", "0001TP_008490"],
    "0001TP_008550": ["0001TP_008490", "0001TP_008520"],
    "0016E5_02400": ["0016E5_02400", "0016E5_02400"],
    "0016E5_04350": ["0016E5_04350", "0016E5_04350"],
    "0016E5_04380": ["0016E5_04350", "0016E5_04350"],
    "Seq05VD_f00000": ["Seq05VD_f00000", "Seq05VD_f00000"],
}


def sequence_of_camvid(root, *, told):
    """Write CamVid's labelled frames, and what `sequences.json` says of them."""
    for part, names in CAM_CLIPS.items():
        for name in names:
            write(root / part / f"{name}.png", None)
            write(root / f"{part}annot" / f"{name}.png", (0, 1, 11))
    if told:
        names = [name for names in CAM_CLIPS.values() for name in names]
        rows = {name: {"sequence": name.split("_")[0], "frame": int(name[-5:])} for name in names}
        (root / "sequences.json").write_text(json.dumps(rows))
    return root


@pytest.mark.parametrize("told", [True, False])
def test_labelled_frames_of_camvid_remember_each_other_across_parts(tmp_path, told):
    config = CamvidConfig(data_dir=sequence_of_camvid(tmp_path, told=told))
    found = {name: frames for part in PARTS for name, frames in before(config.open(part).clips(2)).items()}
    assert found == CAM_BEFORE
    twice = before(config.model_copy(update={"frame_step": 2}).open("train").clips(1))
    assert twice["0001TP_008520"] == ["0001TP_008460"]


def test_what_sequences_json_says_goes_before_the_names(tmp_path):
    root = sequence_of_camvid(tmp_path, told=True)
    (root / "sequences.json").write_text('{"0001TP_008490": {"sequence": "another", "frame": 1}}')
    found = before(CamvidConfig(data_dir=root).open("train").clips(1))
    assert found["0001TP_008490"] == ["0001TP_008490"]
    assert found["0001TP_008520"] == ["0001TP_008460"]
    (root / "sequences.json").write_text('{"0001TP_008490": 3}')
    with pytest.raises(DataError, match=r"sequences.json` cannot be read"):
        CamvidConfig(data_dir=root).open("train").clips(1)


def test_camvid_remembers_frames_of_the_video_where_these_are_there(tmp_path):
    root = sequence_of_camvid(tmp_path, told=True)
    for name in ["0001TP_008459", *(name for names in CAM_CLIPS.values() for name in names)]:
        for number in range(5):
            write(root / "image_sequence" / f"{name[:-5]}{int(name[-5:]) - number:05d}.png", None)
    found = before(CamvidConfig(data_dir=root, frame_step=2).open("train").clips(3))
    assert found["0001TP_008490"] == ["0001TP_008486", "0001TP_008486", "0001TP_008488"]
    assert found["0001TP_008460"] == ["0001TP_008455", "0001TP_008456", "0001TP_008458"]
    (root / "image_sequence" / "0016E5_02400.png").unlink()
    with pytest.raises(DataError, match=r"image_sequence` lacks 1 of 5 labelled frames, such as `0016E5_02400`"):
        CamvidConfig(data_dir=root).open("train").clips(1)


@pytest.mark.parametrize("zipped", [False, True])
def test_painted_camvid_gives_clips_too(tmp_path, zipped):
    dataset = CamvidConfig(data_dir=painted_camvid(tmp_path, zipped=zipped)).open("train").clips(2)
    place = dataset.table["id"].index("0016E5_08190")
    found = [Path(path.split("::")[0]).stem for path in dataset.table["before"][place]]
    assert found == ["0016E5_08159", "0016E5_08159"]  # the frame before that is 200 numbers away
    assert dataset[place].frames.shape == (3, 6, 4, 3)


def made_sequences(root, *, zipped=False):
    """Write Cityscapes with the frames before each labelled one, and one after it."""
    made_cityscapes(root)
    for part in ("train", "val"):
        for frame in CITY_FRAMES[part]:
            sequence, _, number = frame.rpartition("_")
            for other in range(int(number) - 19, int(number) + 2):
                path = root / "leftImg8bit_sequence" / part / frame.split("_")[0]
                write(path / f"{sequence}_{other:06d}_leftImg8bit.png", None)
    if zipped:
        zip_up(root / "leftImg8bit_sequence", root / "leftImg8bit_sequence_trainvaltest.zip")
    return root


@pytest.mark.parametrize("zipped", [False, True])
def test_the_labelled_frame_of_cityscapes_is_the_twentieth_of_its_sequence(tmp_path, zipped):
    config = CityscapesConfig(data_dir=made_sequences(tmp_path, zipped=zipped), frame_step=8)
    dataset = config.open("train").clips(3)
    found = {dataset.record(i).id: [s["path"].split("::")[0] for s in dataset.record(i).before] for i in range(6)}
    expected = [f"bochum_000000_{number:06d}_leftImg8bit" for number in (294, 297, 305)]
    assert [Path(path).stem for path in found["bochum_000000_000313"]] == expected
    assert dataset[0].frames.shape == (4, 6, 4, 3)
    random = config.model_copy(update={"split": "random", "split_sizes": (1, 0, 0)}).open("train").clips(1)
    assert len(random) == 8
    assert len(random[7].frames) == 2


def test_cityscapes_without_its_sequences_has_no_clips(tmp_path):
    config = CityscapesConfig(data_dir=made_cityscapes(tmp_path))
    assert isinstance(config.open("train").clips(0)[0], Sample)
    with pytest.raises(ConfigError, match="single images only.*the model is to be shown 4 frames") as caught:
        config.open("train").clips(4)
    assert "leftImg8bit_sequence_trainvaltest.zip" in caught.value.hint
    made_sequences(tmp_path)
    (tmp_path / "leftImg8bit_sequence/train/bochum/bochum_000000_000312_leftImg8bit.png").unlink()
    with pytest.raises(DataError, match="frame `bochum_000000_000312` is not in leftImg8bit_sequence"):
        config.open("train").clips(1)


# Batches


def batches_of(dataset, augment, *, count=6, loader=ONE_AT_A_TIME, seed=5):
    return list(islice(train_loader(dataset, augment, loader, seed=seed), count))


def same(one, two):
    return all(
        torch.equal(a.pixel_values, b.pixel_values) and torch.equal(a.labels, b.labels) and a.ids == b.ids
        for a, b in zip(one, two, strict=True)
    )


def test_all_frames_of_a_clip_are_cut_alike(street):
    augment = AugmentConfig(crop_size=16, rotate=20)
    for batch in batches_of(street_config(street).open("train").clips(2), augment):
        assert batch.pixel_values.shape == (4, 3, 3, 16, 16)
        columns = batch.pixel_values[:, :, 1]
        assert torch.equal(columns, columns[:, -1:].expand_as(columns))
        ages = batch.pixel_values[:, -1:, 0].int() - batch.pixel_values[:, :, 0].int()
        assert ages.flatten(2).amax((0, 2)).tolist() == [2, 1, 0]


@pytest.mark.many
@pytest.mark.parametrize("clip_photometric", ["frame", "clip"])
def test_the_current_frame_of_a_clip_is_what_image_mode_sees(street, clip_photometric):
    augment = AugmentConfig(
        crop_size=16, erase=0.5, blur=0.5, noise=0.5, vertical_flip=0.5, clip_photometric=clip_photometric
    )
    dataset = street_config(street, rare_class_crop=True).open("train")
    images, clips = batches_of(dataset, augment), batches_of(dataset.clips(3), augment)
    for image, clip in zip(images, clips, strict=True):
        assert torch.equal(clip.images, image.pixel_values)
        assert torch.equal(clip.labels, image.labels)
        seen, shown = Photometric(augment)(clip), Photometric(augment)(image)
        assert torch.equal(seen.images, shown.pixel_values)
        assert torch.equal(seen.labels, shown.labels)


@pytest.mark.slow
def test_clips_are_the_same_for_any_number_of_workers_and_ranks(street):
    dataset = street_config(street).open("train").clips(2)
    augment = AugmentConfig(crop_size=16, erase=0.3)
    alone = batches_of(dataset, augment, count=4)
    assert same(alone, batches_of(dataset, augment, count=4, loader=LoaderConfig(batch_size=4, workers=2)))
    half = LoaderConfig(batch_size=2, workers=0)
    halves = [list(islice(train_loader(dataset, augment, half, seed=5, rank=rank, world_size=2), 4)) for rank in (0, 1)]
    together = [torch.cat([a.pixel_values, b.pixel_values]) for a, b in zip(*halves, strict=True)]
    assert all(torch.equal(one.pixel_values, two) for one, two in zip(alone, together, strict=True))
    assert all(torch.equal(one.draws, torch.cat([a.draws, b.draws])) for one, a, b in zip(alone, *halves, strict=True))


def still(street):
    """Batches of clips that stand still: what differs between their frames was made by augmentation."""
    dataset = street_config(street).open("train").clips(2)
    dataset.table = dataset.table.map(lambda row: {"before": [row["image"]["path"]] * 2})
    return dataset


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("_own_cache")
def test_colours_are_drawn_for_each_frame_or_for_the_clip(street):
    dataset = still(street)
    for choice, is_same in (("frame", False), ("clip", True)):
        augment = AugmentConfig(crop_size=16, clip_photometric=choice, blur=0.5)
        frames = torch.cat([Photometric(augment)(batch).pixel_values for batch in batches_of(dataset, augment)])
        assert torch.equal(frames[:, 0], frames[:, 2]) == is_same
        assert torch.equal(frames[:, 0], frames[:, 1]) == is_same


@pytest.mark.usefixtures("_own_cache")
def test_the_pattern_of_noise_is_another_in_each_frame_and_its_strength_the_clips(street):
    augment = AugmentConfig(crop_size=16, photometric=False, noise=1, noise_std=0.2, clip_photometric="clip")
    batch = batches_of(still(street), augment, count=1)[0]
    noisy, clean = (Photometric(made)(batch).pixel_values for made in (augment, AugmentConfig(photometric=False)))
    noise = noisy - clean
    assert not torch.equal(noise[:, 0], noise[:, 2])
    assert torch.equal(batch.draws[:, 0, 12:14], batch.draws[:, 2, 12:14])


@pytest.mark.usefixtures("_own_cache")
def test_clips_are_flipped_as_a_whole(street):
    augment = AugmentConfig(crop_size=16, photometric=False)
    plain, flipped = AugmentConfig(photometric=False, flip=0), AugmentConfig(photometric=False, flip=1)
    for batch in batches_of(still(street), augment, count=3):
        seen = Photometric(augment)(batch).pixel_values
        assert torch.equal(seen, seen[:, -1:].expand_as(seen))
        assert torch.equal(Photometric(flipped)(batch).pixel_values, Photometric(plain)(batch).pixel_values.flip(-1))


def test_a_rectangle_is_erased_at_the_same_place_in_all_frames(street):
    augment = AugmentConfig(crop_size=16, scale=(1, 1), erase=1, erase_fill="mean")
    dataset = street_config(street).open("train").clips(2)
    for batch in batches_of(dataset, augment, count=2):
        is_erased = batch.pixel_values[:, :, 2] == 104  # blue is 0 everywhere else
        assert is_erased.any()
        assert torch.equal(is_erased, (batch.labels == 255)[:, None].expand_as(is_erased))


def test_nothing_is_pasted_into_clips(street):
    with pytest.raises(ConfigError, match="`augment.copy_paste` is for single images: got clips"):
        train_loader(street_config(street).open("train").clips(1), AugmentConfig(copy_paste=0.5), ONE_AT_A_TIME, seed=0)


def test_an_option_for_clips_needs_something_to_do():
    with pytest.raises(ValidationError, match="`clip_photometric` has no effect without"):
        AugmentConfig(photometric=False, clip_photometric="clip")


# Files that cannot be used


@pytest.fixture
def broken(street, tmp_path):
    """A copy in which a frame without a mask is broken, which is in three clips."""
    root = shutil.copytree(street, tmp_path / "broken")
    (root / "images" / "000003.png").write_bytes(b"broken")
    return root


def test_verification_reads_every_frame_and_names_each_once(broken):
    dataset = street_config(broken).open("train").clips(3)
    with pytest.raises(DataError, match=r"3 of 22 samples of `broken` cannot be used") as caught:
        verify(dataset, workers=0)
    assert caught.value.message.count("000003.png` is not an image that can be read") == 1
    assert verify(dataset.clips(0), workers=0).num_images == 22


def test_a_frame_of_another_size_is_named(street, tmp_path):
    root = shutil.copytree(street, tmp_path / "mixed")
    Image.fromarray(picture(3, (12, 16))).save(root / "images" / "000003.png")
    dataset = street_config(root).open("train").clips(1)
    message = r"frames of a clip differ in size: `.*000003.png` is 16 x 12, `.*000004.png` is 32 x 24"
    for look in (lambda: verify(dataset, workers=0), lambda: dataset[0]):
        with pytest.raises(DataError, match=message):
            look()


def test_a_clip_with_a_broken_frame_is_left_out(broken, caplog):
    dataset = street_config(broken).open("train").clips(2)
    augment, skips = AugmentConfig(crop_size=16), Skips()
    with pytest.raises(DataError, match=r"000003.png` is not an image"):
        batches_of(dataset, augment)
    loader = LoaderConfig(batch_size=4, workers=0, on_error="skip")
    with caplog.at_level(logging.WARNING):
        found = list(islice(train_loader(dataset, augment, loader, seed=5, skips=skips), 6))
    assert all(len(batch.ids) == 4 for batch in found)
    assert not {"000004", "000005"} & {name for batch in found for name in batch.ids}
    assert [key.split("`")[1].split("/")[-1] for key in skips.take()] == ["000003.png"]
    with pytest.raises(DataError, match=r"000003.png` is not an image"):
        list(eval_loader(dataset, ONE_AT_A_TIME))


# Evaluation


def test_evaluation_batches_hold_whole_clips(street):
    dataset = street_config(street).open("validation").clips(2)
    (batch,) = eval_loader(dataset, ONE_AT_A_TIME, short_side=12)
    assert batch.pixel_values.shape == (4, 3, 3, 12, 16)
    assert batch.labels.shape == (4, 24, 32)
    assert batch.draws is None
    assert batch.pixel_values[:, :, 0, 0, 0].tolist() == [[n - 2, n - 1, n] for n in range(29, 33)]
    floats = Photometric(AugmentConfig())(batch)
    assert torch.equal(floats.pixel_values, batch.pixel_values / 255)


def test_corruptions_change_every_frame_and_the_current_one_as_the_image(street):
    dataset = street_config(street).open("validation")
    change = Corruption("gaussian_noise", 3)
    (image,) = eval_loader(dataset, ONE_AT_A_TIME, change=change)
    (clip,) = eval_loader(dataset.clips(1), ONE_AT_A_TIME, change=change)
    assert torch.equal(clip.images, image.pixel_values)
    assert torch.equal(clip.pixel_values[1:, 0], clip.pixel_values[:-1, 1])  # a frame is the same in every clip


class Outer(Config):
    data: DataConfig


def test_data_sets_without_sequences_have_no_step():
    made = Outer.load(sets=["data.kind=frames", "data.data_dir=x", "data.frame_step=2"])
    assert made.data == FramesConfig(data_dir=Path("x"), frame_step=2)
    with pytest.raises(ConfigError, match=r"`data.frame_step` is not a known key"):
        Outer.load(sets=["data.kind=demo", "data.frame_step=2"])


def test_selected_clips_stay_clips(tmp_path):
    dataset = CamvidConfig(data_dir=made_camvid(tmp_path, "{}", "{}annot")).open("train").clips(1)
    assert dataset.select([2])[0].frames.shape == (2, 6, 4, 3)
    assert isinstance(dataset.clips(0)[0], Sample)
    assert dataset.clips(3)[0].frames.shape == (4, 6, 4, 3)
