import io
import logging
import pickle
from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hfseg.data import (
    AugmentConfig,
    DemoConfig,
    LoaderConfig,
    StreamDataset,
    TableDataset,
    eval_loader,
    train_loader,
    verify,
)
from hfseg.errors import DataError
from hfseg.labels import LabelSpace

AUGMENT = AugmentConfig(crop_size=32)
SPACE = LabelSpace.from_names(["a", "b", "c"])


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def row(number, *, size=(20, 24), value=None):
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 3, size, dtype=np.uint8)
    if value is not None:
        labels[0, 0] = value
    image = np.full((*size, 3), number, np.uint8)
    return {
        "image": {"bytes": png(image), "path": None},
        "label": {"bytes": png(labels), "path": f"{number}.png"},
        "id": str(number),
    }


def table(rows):
    undecoded = datasets.Image(decode=False)
    features = datasets.Features(image=undecoded, label=undecoded, id=datasets.Value("string"))
    return datasets.Dataset.from_list(rows, features=features)


def made(count=23, **options):
    return TableDataset(table([row(number, **options) for number in range(count)]), SPACE, name="made")


def streamed(count=23, buffer=8):
    stream = table([row(number) for number in range(count)]).to_iterable_dataset(num_shards=2)
    return StreamDataset(stream, SPACE, "made", "train", buffer)


def batches(dataset, count, *, workers=0, batch_size=4, **options):
    config = LoaderConfig(batch_size=batch_size, workers=workers)
    return list(islice(train_loader(dataset, AUGMENT, config, seed=7, **options), count))


def same(one, other):
    return (
        one.ids == other.ids
        and torch.equal(one.pixel_values, other.pixel_values)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.draws, other.draws)
    )


def equal(ones, others):
    return len(ones) == len(others) and all(same(one, other) for one, other in zip(ones, others, strict=True))


DATASETS = {"table": made, "stream": streamed}


@pytest.mark.many
@pytest.mark.parametrize("kind", DATASETS)
def test_any_number_of_workers_gives_the_same_run(kind):
    alone = batches(DATASETS[kind](), 12)
    assert alone[0].pixel_values.shape == (4, 3, 32, 32)
    assert alone[0].pixel_values.dtype == torch.uint8
    assert equal(alone, batches(DATASETS[kind](), 12, workers=2))


@pytest.mark.many
@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("start", [1, 5, 7, 13])
def test_a_later_start_continues_in_the_middle_of_an_epoch(kind, start):
    whole = batches(DATASETS[kind](), 15)
    assert equal(whole[start:], batches(DATASETS[kind](), 15 - start, start_step=start))


@pytest.mark.many
@pytest.mark.parametrize("kind", DATASETS)
def test_ranks_share_the_batches_of_one_process_with_the_same_randomness(kind):
    whole = batches(DATASETS[kind](), 6, batch_size=6)
    ranks = [batches(DATASETS[kind](), 6, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.ids == ranks[0][step].ids + ranks[1][step].ids
        assert torch.equal(batch.pixel_values, torch.cat([rank[step].pixel_values for rank in ranks]))
        assert torch.equal(batch.draws, torch.cat([rank[step].draws for rank in ranks]))


def test_an_epoch_of_a_table_has_each_sample_once_and_another_order_than_the_next():
    found = [name for batch in batches(made(24), 12) for name in batch.ids]
    assert set(found[:24]) == set(found[24:]) == {str(number) for number in range(24)}
    assert found[:24] != found[24:]
    assert train_loader(made(23), AUGMENT, LoaderConfig(batch_size=4), seed=0, world_size=2).steps_per_epoch == 2


def test_an_epoch_of_a_stream_has_no_sample_twice():
    found = [name for batch in batches(streamed(24), 12) for name in batch.ids]
    assert max(Counter(found[:24]).values()) == max(Counter(found[24:]).values()) == 1
    assert found[0].startswith("train-0-")
    assert found[24].startswith("train-1-")


def test_a_sample_is_cropped_anew_in_each_epoch():
    first, second = batches(made(4), 2)
    order = [second.ids.index(name) for name in first.ids]
    assert not torch.equal(first.labels, second.labels[order])
    assert not torch.equal(first.draws, second.draws[order])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    batches(made(8), 2, workers=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", DATASETS)
def test_too_few_samples_for_one_batch_are_an_error(kind):
    with pytest.raises(DataError, match="`made` cannot fill one batch of 4 on each of 2 processes") as caught:
        batches(DATASETS[kind](7), 1, world_size=2)
    assert "loader.batch_size" in caught.value.hint


def test_nobody_knows_the_length_of_a_stream():
    loader = train_loader(streamed(), AUGMENT, LoaderConfig(), seed=0)
    with pytest.raises(DataError, match="`made` is streamed: its length is not known"):
        _ = loader.steps_per_epoch


def test_several_processes_are_told_that_each_of_them_reads_a_whole_stream(caplog):
    with caplog.at_level(logging.INFO):
        batches(streamed(), 2)
        assert not caplog.messages
        batches(streamed(), 2, world_size=2)
    assert caplog.messages == [
        "each of 2 processes reads the whole stream `made`; shards of `hfseg data prepare` are dealt out"
    ]


@pytest.mark.many
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_reaches_the_user_as_it_is(workers):
    broken = TableDataset(table([row(number, value=9) for number in range(8)]), SPACE, name="made")
    with pytest.raises(DataError) as caught:
        batches(broken, 1, workers=workers)
    assert caught.value.message.endswith("mask has the value 9 in 1 pixels: expected 0 to 2, 255")
    assert caught.value.hint == "there are 3 classes; ignored pixels are 255"
    with pytest.raises(DataError, match="value 9"):
        list(eval_loader(broken, LoaderConfig(workers=workers)))


SIZES = [(20, 24)] * 5 + [(18, 18)] + [(20, 24)] * 2 + [(30, 12)] * 3


def sized(kind):
    rows = [row(number, size=size) for number, size in enumerate(SIZES)]
    if kind == "table":
        return TableDataset(table(rows), SPACE, name="made")
    return StreamDataset(table(rows).to_iterable_dataset(), SPACE, "made", "validation", 8)


@pytest.mark.many
@pytest.mark.parametrize("kind", ["table", "stream"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_sees_each_sample_once_in_batches_that_do_not_depend_on_ranks(kind, world_size, workers):
    config = LoaderConfig(eval_batch_size=2, workers=workers)
    alone = [batch.ids for batch in eval_loader(sized(kind), config.model_copy(update={"workers": 0}))]
    loaders = [eval_loader(sized(kind), config, rank=r, world_size=world_size) for r in range(world_size)]
    dealt = [list(loader) for loader in loaders]
    assert [len(ids) for ids in alone] == [2, 2, 1, 1, 2, 2, 1]
    for rank, mine in enumerate(dealt):
        assert [batch.ids for batch in mine] == alone[rank::world_size]
    if kind == "table":
        assert [loader.num_batches for loader in loaders] == [len(mine) for mine in dealt]
        assert sum(loader.num_samples for loader in loaders) == len(SIZES)
    else:
        assert loaders[0].num_batches is None


def test_evaluation_leaves_labels_at_their_own_size():
    dataset = sized("table")
    batch = next(iter(eval_loader(dataset, LoaderConfig(workers=0), short_side=10)))
    assert batch.pixel_values.shape == (4, 3, 10, 12)
    assert batch.draws is None
    assert np.array_equal(batch.labels[1].numpy(), dataset[1].labels)
    whole = next(iter(eval_loader(dataset, LoaderConfig(workers=0))))
    assert np.array_equal(whole.pixel_values[2].permute(1, 2, 0).numpy(), dataset[2].image)


def test_an_evaluation_loader_can_be_read_again():
    loader = eval_loader(sized("table"), LoaderConfig(workers=1))
    assert [batch.ids for batch in loader] == [batch.ids for batch in loader]


def test_data_sets_travel_to_workers():
    assert pickle.loads(pickle.dumps(made(3)))[2].id == "2"  # noqa: S301 our own bytes


@pytest.mark.parametrize("workers", [0, 2])
def test_verify_counts_every_pixel(workers):
    dataset, seen = made(9), []
    found = verify(dataset, workers=workers, progress=lambda done, total: seen.append((done, total)))
    labels = np.stack([dataset[index].labels for index in range(9)])
    assert found.pixels == tuple(int((labels == i).sum()) for i in range(3))
    assert (found.num_images, found.ignored_pixels) == (9, 0)
    assert seen == [(done, 9) for done in range(1, 10)]


def test_verify_tells_all_problems_at_once():
    rows = [row(number) for number in range(12)]
    rows[2] = row(2, value=9)
    rows[5]["label"] = row(5, size=(4, 4))["label"]
    rows[7]["image"] = {"bytes": b"no image", "path": "seven.jpg"}
    rows[8]["label"] = {"bytes": rows[8]["label"]["bytes"][:60], "path": "8.png"}
    with pytest.raises(DataError) as caught:
        verify(TableDataset(table(rows), SPACE, name="made"), workers=1)
    lines = caught.value.message.splitlines()
    assert lines[0] == "4 of 12 samples of `made` cannot be used"
    assert lines[1] == "  `2.png`: mask has the value 9 in 1 pixels: expected 0 to 2, 255"
    assert lines[2] == "  image and mask differ in size: `image of 5` is 24 x 20, `5.png` is 4 x 4"
    assert lines[3] == "  `seven.jpg` is not an image that can be read"
    assert lines[4].startswith("  `8.png` is truncated or broken")


def test_verify_shows_the_first_of_many_problems():
    dataset = TableDataset(table([row(number, value=9) for number in range(12)]), SPACE, name="made")
    with pytest.raises(DataError, match="12 of 12") as caught:
        verify(dataset, workers=2)
    assert caught.value.message.splitlines()[-1] == "  and 4 more"


def test_verify_passes_the_demo_set():
    assert verify(DemoConfig().open("validation"), workers=1).pixels == (189496, 117704)
