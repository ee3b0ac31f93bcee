"""Prepared shards: the samples of their source, shared out over processes, whole or not there."""

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_data_loader import png, row, table

from hfseg.data import (
    AugmentConfig,
    DemoConfig,
    FolderConfig,
    LoaderConfig,
    StreamDataset,
    TableDataset,
    eval_loader,
    train_loader,
    verify,
)
from hfseg.data.demo import COINS_DIR
from hfseg.data.manifest import read_manifest
from hfseg.data.packing import in_memory
from hfseg.data.prepare import Layout, prepare
from hfseg.data.record import Record
from hfseg.data.shard_table import check_checksums
from hfseg.data.shards import ShardsConfig
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.recipes.prepare import PrepareConfig, run, to_json, to_text

pytestmark = pytest.mark.slow

AUGMENT = AugmentConfig(crop_size=32)
SPACE = LabelSpace.from_names(["a", "b", "c"])
SIZES = [(20, 24)] * 5 + [(18, 18)] + [(20, 24)] * 2 + [(30, 12)] * 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)  # 5 s at the end of each epoch
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "shards"
    run(PrepareConfig(data=DemoConfig(classes="size"), output=folder, min_shards=4))
    return folder


def made(count=22, sizes=()):
    rows = [row(number, **({"size": sizes[number]} if sizes else {})) for number in range(count)]
    return TableDataset(table(rows), SPACE, name="made")


def written(folder, dataset, *, split="train", **layout):
    """Prepare one part and say where it lies."""
    prepare({split: dataset}, folder, source={"kind": "made"}, layout=Layout(**layout))
    return folder


def same_samples(one, other):
    assert len(one) == len(other)
    assert one.labels == other.labels
    for index in range(len(one)):
        left, right = one[index], other[index]
        assert left.id == right.id
        assert np.array_equal(left.image, right.image)
        assert np.array_equal(left.labels, right.labels)
        assert left.labels.dtype == right.labels.dtype


def batches(dataset, count, *, workers=0, batch_size=3, **options):
    config = LoaderConfig(batch_size=batch_size, workers=workers)
    return list(islice(train_loader(dataset, AUGMENT, config, seed=7, **options), count))


def equal(ones, others):
    return len(ones) == len(others) and all(
        one.ids == other.ids
        and torch.equal(one.pixel_values, other.pixel_values)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.draws, other.draws)
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_hold_the_samples_and_the_classes_of_their_source(demo, split, streaming):
    source = DemoConfig(classes="size")
    config = ShardsConfig(data_dir=demo, streaming=streaming)
    assert config.labels() == source.labels()
    same_samples(config.open(split), source.open(split))


def test_what_was_merged_before_is_not_merged_again_and_can_be_merged_further(tmp_path, demo):
    two = DemoConfig(classes="coin")
    same_samples(ShardsConfig(data_dir=written(tmp_path / "two", two.open("train"))).open("train"), two.open("train"))
    merged = ShardsConfig(data_dir=demo, merge={"background": ["background"], "coin": ["*"]})
    same_samples(merged.open("validation"), two.open("validation"))


def test_files_keep_their_bytes_and_plain_datasets_streams_them(demo):
    files = {"train": str(demo / "train-*.parquet"), "validation": str(demo / "validation-*.parquet")}
    parts = datasets.load_dataset("parquet", data_files=files, streaming=True)
    assert parts["train"].num_shards == 4
    assert isinstance(parts["train"].features["image"], datasets.Image)
    rows = list(parts["train"])
    assert (rows[0]["image"].size, rows[0]["label"].mode) == ((160, 160), "P")
    undecoded = datasets.Image(decode=False)
    raw = list(parts["validation"].cast_column("image", undecoded).cast_column("label", undecoded))
    assert len(rows) + len(raw) == 60
    for found in raw:
        assert found["image"]["bytes"] == (COINS_DIR / "images" / "val" / found["image"]["path"]).read_bytes()
        assert found["label"]["bytes"] == (COINS_DIR / "masks" / "val" / found["label"]["path"]).read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_shards_gives_the_batches_of_the_source(demo, workers):
    source, shards = DemoConfig(classes="size").open("train"), ShardsConfig(data_dir=demo).open("train")
    assert equal(batches(source, 20), batches(shards, 20, workers=workers))
    parts = [batches(shards, 3, rank=rank, world_size=2, batch_size=2) for rank in range(2)]
    whole = batches(source, 3, batch_size=4)
    assert [batch.ids for batch in whole] == [one.ids + two.ids for one, two in zip(*parts, strict=True)]


def streamed(folder, **settings):
    return ShardsConfig(data_dir=folder, streaming=True, **settings).open("train")


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "num_shards"), [(48, 4), (50, 4), (47, 12), (35, 5)])
def test_a_streamed_epoch_uses_each_sample_once_over_all_ranks(tmp_path, count, num_shards, world_size):
    dataset = streamed(written(tmp_path / "out", made(count), min_shards=num_shards), shuffle_buffer=5)
    options = {"world_size": world_size, "batch_size": 2}
    config = LoaderConfig(batch_size=2)
    steps = train_loader(dataset, AUGMENT, config, seed=7, world_size=world_size).steps_per_epoch
    ranks = [batches(dataset, 2 * steps, rank=rank, **options) for rank in range(world_size)]
    for epoch in range(2):
        seen = Counter(
            name for rank in ranks for batch in rank[epoch * steps : (epoch + 1) * steps] for name in batch.ids
        )
        assert max(seen.values()) == 1
        is_dealt = world_size > 1 and num_shards % world_size == 0
        assert 0 <= count - len(seen) < 2 * world_size + (num_shards if is_dealt else 0)
        assert set(seen) <= {str(number) for number in range(count)}


@pytest.mark.parametrize("world_size", [2, 4])
def test_each_shard_is_read_by_one_rank_in_an_epoch_and_by_another_one_later(tmp_path, world_size):
    dataset = streamed(written(tmp_path / "out", made(48), min_shards=4))
    steps = 48 // (3 * world_size)
    owners = []
    for rank in range(world_size):
        found = batches(dataset, 6 * steps, rank=rank, world_size=world_size)
        owners.append(
            [
                {int(name) // 12 for batch in found[epoch * steps : (epoch + 1) * steps] for name in batch.ids}
                for epoch in range(6)
            ]
        )
    for epoch in range(6):
        dealt = [owner[epoch] for owner in owners]
        assert [len(shards) for shards in dealt] == [4 // world_size] * world_size
        assert set.union(*dealt) == {0, 1, 2, 3}
    assert len({frozenset(shards) for shards in owners[0]}) > 1


def test_shards_that_cannot_be_dealt_out_evenly_are_said_and_read_by_all(tmp_path, caplog):
    dataset = streamed(written(tmp_path / "out", made(48), min_shards=4), shuffle_buffer=4)
    with caplog.at_level(logging.INFO):
        whole = batches(dataset, 5, batch_size=9)
        assert not caplog.messages
        ranks = [batches(dataset, 5, rank=rank, world_size=3) for rank in range(3)]
    assert caplog.messages[0] == (
        "4 shards of `out` cannot be dealt out evenly to 3 processes: each process reads from all of them"
    )
    assert [batch.ids for batch in whole] == [a.ids + b.ids + c.ids for a, b, c in zip(*ranks, strict=True)]


def test_a_streamed_epoch_mixes_neighbours_only(tmp_path):
    dataset = streamed(written(tmp_path / "out", made(48), min_shards=4), shuffle_buffer=6)
    found = [int(name) for batch in batches(dataset, 16) for name in batch.ids]
    windows = [found[start : start + 6] for start in range(0, 48, 6)]
    assert all(max(window) - min(window) == 5 for window in windows)
    assert any(window != sorted(window) for window in windows)
    shards = [window[0] // 12 for window in windows[::2]]
    assert sorted(shards) == [0, 1, 2, 3]
    assert [number // 12 for number in found] == [shard for shard in shards for _ in range(12)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_and_a_later_start_do_not_change_a_streamed_run(tmp_path, world_size):
    dataset = streamed(written(tmp_path / "out", made(22), min_shards=4), shuffle_buffer=5)
    options = {"rank": world_size - 1, "world_size": world_size, "batch_size": 2}
    whole = batches(dataset, 15, **options)
    assert equal(whole, batches(dataset, 15, workers=2, **options))
    for start in (1, 6, 11):
        assert equal(whole[start:], batches(dataset, 15 - start, start_step=start, **options))


def test_to_start_late_in_an_epoch_no_earlier_sample_is_read(tmp_path):
    folder = written(tmp_path / "out", made(48), min_shards=4)
    whole = [batch.ids for batch in batches(streamed(folder), 16)]
    first = int(whole[0][0]) // 12
    dataset = streamed(folder)
    damage(folder / f"train-{first:05d}-of-00004.parquet")
    assert [batch.ids for batch in batches(dataset, 12, start_step=4)] == whole[4:]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_sample_once_in_the_batches_of_the_source(tmp_path, streaming, world_size):
    source = made(len(SIZES), SIZES)
    folder = written(tmp_path / "out", source, split="validation", min_shards=3)
    dataset = ShardsConfig(data_dir=folder, streaming=streaming).open("validation")
    config = LoaderConfig(eval_batch_size=2, workers=0)
    alone = [batch.ids for batch in eval_loader(source, config)]
    for rank in range(world_size):
        loader = eval_loader(dataset, config, rank=rank, world_size=world_size)
        assert [batch.ids for batch in loader] == alone[rank::world_size]
        assert loader.num_batches == len(alone[rank::world_size])


def test_too_few_samples_for_one_batch_are_an_error(tmp_path):
    dataset = streamed(written(tmp_path / "out", made(7), min_shards=4))
    with pytest.raises(DataError, match="cannot fill one batch of 2 on each of 4 processes: got 7 training samples"):
        train_loader(dataset, AUGMENT, LoaderConfig(batch_size=2), seed=0, world_size=4)


def test_rows_can_be_chosen_travel_to_workers_and_are_verified(tmp_path):
    dataset = ShardsConfig(data_dir=written(tmp_path / "out", made(9, SIZES[:9]), min_shards=2)).open("train")
    few = dataset.select([7, 2, 5]).select([2, 0])
    assert [few[index].id for index in range(len(few))] == ["5", "7"]
    config = LoaderConfig(eval_batch_size=4, workers=0)
    assert [batch.ids for batch in eval_loader(few, config)] == [("5",), ("7",)]
    assert pickle.loads(pickle.dumps(few))[0].id == "5"  # noqa: S301 our own bytes
    assert verify(dataset, workers=2) == verify(made(9, SIZES[:9]), workers=0)


def test_rare_classes_are_cropped_around_in_shards_as_in_their_source(tmp_path):
    source = made(8)
    settings = {"data_dir": written(tmp_path / "out", source), "rare_class_crop": True}
    source.rare_class_crop = True
    assert equal(batches(source, 4), batches(ShardsConfig(**settings).open("train"), 4))
    assert len(batches(ShardsConfig(**settings, streaming=True).open("train"), 4)) == 4


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, [22]),
        ({"min_shards": 4}, [5, 6, 5, 6]),
        ({"min_shards": 40}, [1] * 22),
        ({"shard_mb": 1}, [22]),
    ],
)
def test_shards_are_equal_to_within_one_row(tmp_path, layout, expected):
    folder = written(tmp_path / "out", made(22), **layout)
    shards = read_manifest(folder).parts["train"]
    assert [shard.rows for shard in shards] == expected
    number = len(expected)
    assert [shard.file for shard in shards] == [f"train-{i:05d}-of-{number:05d}.parquet" for i in range(number)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(shard.file for shard in shards), "labels.json", "manifest.json"]
    )


def test_the_size_of_shards_is_aimed_at_and_their_number_is_a_multiple():
    assert Layout(shard_mb=10).num_shards(1000, 96_000_000) == 10
    assert Layout(shard_mb=10, min_shards=8).num_shards(1000, 96_000_000) == 16
    assert Layout(shard_mb=10, min_shards=8).num_shards(1000, 1_000_000) == 8


def test_the_same_bytes_are_written_by_any_number_of_workers(tmp_path):
    folders = [tmp_path / f"{workers}" for workers in (0, 3)]
    seen = []
    for folder, workers in zip(folders, (0, 3), strict=True):
        prepare(
            {"train": made(22), "test": made(3)},
            folder,
            source={},
            workers=workers,
            layout=Layout(min_shards=3),
            progress=lambda done, total: seen.append((done, total)),
        )
    assert read_manifest(folders[0]) == read_manifest(folders[1])
    assert seen == [(done, 25) for done in range(1, 26)] * 2


def test_samples_can_be_written_in_a_seeded_order(tmp_path):
    orders = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        dataset = ShardsConfig(data_dir=written(tmp_path / name, made(22), shuffle_seed=seed)).open("train")
        orders.append([dataset.record(index).id for index in range(22)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2], key=int) == [str(number) for number in range(22)]


@pytest.mark.parametrize("shuffle_seed", [None, 1])
def test_a_stream_becomes_shards_of_equal_length(tmp_path, shuffle_seed):
    stream = StreamDataset(table([row(i) for i in range(11)]).to_iterable_dataset(), SPACE, "made", "train", 4)
    folder = written(tmp_path / "out", stream, min_shards=2, shuffle_seed=shuffle_seed)
    assert [shard.rows for shard in read_manifest(folder).parts["train"]] == [5, 6]
    assert not list(folder.glob("spool*"))
    dataset = ShardsConfig(data_dir=folder).open("train")
    expected = {sample.id: sample for sample in (made(11)[index] for index in range(11))}
    ids = [dataset[index].id for index in range(11)]
    assert sorted(ids) == sorted(f"train-{i:06d}" for i in range(11))
    assert (ids == sorted(ids)) == (shuffle_seed is None)
    for index, name in enumerate(ids):
        assert np.array_equal(dataset[index].labels, expected[str(int(name[6:]))].labels)
    assert dataset.table.image_sizes == ((20, 24),) * 11


@pytest.mark.parametrize("highest", [2, 300])
def test_masks_that_are_tables_of_numbers_become_files(tmp_path, highest):
    space = LabelSpace.from_names([f"c{i}" for i in range(highest + 1)], ignore_index=65535)
    values = np.arange(480).reshape(20, 24) % (highest + 1)
    rows = [{"image": row(0)["image"], "label": values.tolist(), "id": "0"}]
    features = datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.List(datasets.List(datasets.Value("int32"))),
        id=datasets.Value("string"),
    )
    source = TableDataset(datasets.Dataset.from_list(rows, features=features), space, name="made")
    dataset = ShardsConfig(data_dir=written(tmp_path / "out", source)).open("train")
    same_samples(dataset, source)
    assert dataset.record(0).label["bytes"].startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [-1, 65536])
def test_values_that_no_file_can_hold_are_an_error(value):
    record = Record(row(0)["image"], [[0, 1], [2, value]], "0")
    with pytest.raises(DataError, match="`mask of 0` holds values from .*: expected 0 to 65535"):
        in_memory(record)


def test_masks_that_are_painted_stay_painted(tmp_path):
    space = LabelSpace(
        ("sky", "road"), ((0, 0, 9), (9, 9, 9)), {0: 0, 1: 1, 2: 255}, colors={(1, 2, 3): 0, (4, 5, 6): 1, (7, 8, 9): 2}
    )
    colors = np.asarray(list(space.colors), dtype=np.uint8)[np.arange(480).reshape(20, 24) % 3]
    rows = [{**row(0), "label": {"bytes": png(colors), "path": "painted.png"}}]
    source = TableDataset(table(rows), space, name="made")
    dataset = ShardsConfig(data_dir=written(tmp_path / "out", source)).open("train")
    same_samples(dataset, source)
    assert dataset.record(0).label["path"] == "painted.png"


def damage(path, place=0.5):
    """Flip a bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_found_before_a_run(tmp_path, demo, place):
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    seen = []
    check_checksums(
        ShardsConfig(data_dir=folder).open("train").table, workers=1, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    damage(folder / "train-00002-of-00004.parquet", place)
    with pytest.raises(
        DataError, match="1 of 4 shards in .* are not as they were written: `train-00002-of-00004.parquet`"
    ):
        check_checksums(ShardsConfig(data_dir=folder).open("train").table, workers=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_bit_in_an_image_is_found_when_it_is_read(tmp_path, demo, workers):
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    damage(folder / "validation-00001-of-00004.parquet")
    dataset = ShardsConfig(data_dir=folder).open("validation")
    with pytest.raises(DataError, match=r"shard `.*validation-00001-of-00004.parquet` cannot be read: .*CRC"):
        list(eval_loader(dataset, LoaderConfig(workers=workers)))


def test_shards_that_are_not_as_the_manifest_says_are_told(tmp_path, demo):
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    shard = folder / "train-00001-of-00004.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"train-00001-of-00004.parquet` has [\d,]+ bytes: expected"):
        ShardsConfig(data_dir=folder).open("train")
    shard.unlink()
    with pytest.raises(DataError, match=r"shard `.*train-00001-of-00004.parquet` is missing"):
        ShardsConfig(data_dir=folder).open("train")
    with pytest.raises(DataError, match="has no `test` part") as caught:
        ShardsConfig(data_dir=folder).open("test")
    assert caught.value.hint == "its parts are train, validation"
    damage(folder / "labels.json")
    with pytest.raises(DataError, match="labels.json` is not as it was written"):
        ShardsConfig(data_dir=folder).labels()
    (folder / "labels.json").unlink()
    with pytest.raises(DataError, match="labels.json` cannot be read"):
        ShardsConfig(data_dir=folder).open("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: {**tree, "version": 9}, "has the version 9: expected 1"),
        (lambda tree: {"parts": {}}, "manifest.json` cannot be read: 'version'"),
        (lambda tree: [], "manifest.json` cannot be read"),
        (lambda tree: {**tree, "parts": {"train": [{**tree["parts"]["train"][0], "file": "../x.parquet"}]}}, "got '../x.parquet'"),
        (lambda tree: {**tree, "parts": {"train": [{**tree["parts"]["train"][0], "rows": "many"}]}}, "parts.train.0.rows"),
        (lambda tree: {**tree, "more": 1}, "`more`"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used_says_why(tmp_path, demo, change, message):
    folder = tmp_path / "copy"
    folder.mkdir()
    tree = json.loads((demo / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(change(tree)))
    with pytest.raises(DataError, match=message.replace(".", r"\.")) as caught:
        ShardsConfig(data_dir=folder).open("train")
    assert "hfseg data prepare" in caught.value.hint
    with pytest.raises(DataError, match="is no prepared data set: `manifest.json` is missing"):
        ShardsConfig(data_dir=tmp_path).labels()


def made_folder(root, count=6):
    for kind, key in (("images", "image"), ("masks", "label")):
        for number in range(count):
            path = root / kind / "train" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row(number)[key]["bytes"])
    return FolderConfig(data_dir=root, classes=("a", "b", "c"), validation_fraction=0.34)


def test_a_folder_becomes_shards_by_the_recipe(tmp_path):
    source = made_folder(tmp_path / "source")
    (tmp_path / "out").mkdir()
    result = run(PrepareConfig(data=source, output=tmp_path / "out", workers=2))
    assert to_text(result).startswith("train: 4 samples in 1 shards, ")
    assert to_json(result)["source"]["kind"] == "folder"
    for split in ("train", "validation"):
        same_samples(ShardsConfig(data_dir=result.folder).open(split), source.open(split))


def test_an_output_that_holds_something_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="exists already") as caught:
            run(PrepareConfig(data=DemoConfig(), output=output))
        assert "nothing is overwritten" in caught.value.hint
    with pytest.raises(DataError, match="out` cannot be written: Not a directory"):
        run(PrepareConfig(data=DemoConfig(), output=tmp_path / "file" / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_is_named_and_nothing_is_left(tmp_path, workers):
    source = made_folder(tmp_path / "source")
    bad = source.open("train").record(3).label["path"]
    Path(bad).write_bytes(png(np.full((20, 24), 9, np.uint8)))
    with pytest.raises(DataError, match=f"{bad}`: mask has the value 9 in 480 pixels"):
        run(PrepareConfig(data=source, output=tmp_path / "out", workers=workers))
    Path(bad).write_bytes(png(np.zeros((3, 4), np.uint8)))
    with pytest.raises(DataError, match="image and mask differ in size"):
        run(PrepareConfig(data=source, output=tmp_path / "out", workers=workers))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_empty_part_is_an_error(tmp_path):
    for dataset in (made(1).select([]), StreamDataset(iter(()), SPACE, "made", "train", 4)):
        with pytest.raises(DataError, match="the `train` part is empty"):
            written(tmp_path / "out", dataset)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from hfseg.data import DemoConfig
from hfseg.data.packing import in_memory
from hfseg.data.prepare import Layout, prepare
from hfseg.data.record import Record
config, moment = DemoConfig(), int(sys.argv[2])
def kill(done, total):
    if done == moment:
        os.kill(os.getpid(), signal.SIGKILL)
parts = {split: config.open(split) for split in ("train", "validation")}
prepare(parts, Path(sys.argv[1]), source={}, layout=Layout(min_shards=4), progress=kill)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 30, 60])
def test_a_writer_that_is_killed_leaves_nothing_that_opens(tmp_path, moment):
    output = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(output), str(moment)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    left = tmp_path / ".out.new"
    for folder in (output, left):
        with pytest.raises(DataError, match="is no prepared data set"):
            ShardsConfig(data_dir=folder).open("train")
    again = PrepareConfig(data=DemoConfig(), output=output)
    with pytest.raises(DataError, match=r"out.new` is left from a preparation that was stopped") as caught:
        run(again)
    assert "delete it" in caught.value.hint
    shutil.rmtree(left)
    assert len(ShardsConfig(data_dir=run(again).folder).open("train")) == 48


FULL = """
import resource, sys
from pathlib import Path
from hfseg.data import DemoConfig
from hfseg.data.prepare import prepare
from hfseg.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    prepare({"train": DemoConfig().open("train")}, Path(sys.argv[1]), source={})
except DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_cannot_hold_the_shards_is_told_and_nothing_is_left(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "out")], capture_output=True, text=True, env=os.environ, check=False
    )
    assert "out` cannot be written: " in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_buffer_without_streaming_is_an_error(tmp_path):
    with pytest.raises(ValidationError, match="`shuffle_buffer` has no effect without `streaming: true`: got 5"):
        ShardsConfig(data_dir=tmp_path, shuffle_buffer=5)
