import io
import shutil
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from hfseg.config import Config
from hfseg.data import (
    Ade20kConfig,
    AugmentConfig,
    DataConfig,
    Dataset,
    DemoConfig,
    FolderConfig,
    FramesConfig,
    HubConfig,
    LoaderConfig,
    StreamDataset,
    eval_loader,
    train_loader,
    verify,
)
from hfseg.data.ade20k import Ade20kFourConfig
from hfseg.data.demo import COINS_DIR
from hfseg.data.record import Record, open_record_image
from hfseg.errors import ConfigError, DataError
from hfseg.values import Clip, Sample

datasets.disable_progress_bars()
PARTS = {"train": ("training", "ADE_train", 3), "validation": ("validation", "ADE_val", 2)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)  # 5 s at the end of each epoch
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def files_of(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def made_pair(number):
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((42, 30))
    labels = np.kron(rng.integers(0, 151, (5, 7), dtype=np.uint8), np.ones((6, 6), np.uint8))
    labels[0, :2] = 0, 150
    return files_of(image, format="JPEG"), files_of(Image.fromarray(labels), format="PNG")


def made_ade20k(root):
    """Write made images as the folder, its zip, and Parquet files."""
    folder, parquet_dir = root / "unpacked" / "ADEChallengeData2016", root / "parquet"
    parquet_dir.mkdir(parents=True)
    undecoded = datasets.Image()
    features = datasets.Features(image=undecoded, annotation=undecoded, scene_category=datasets.Value("int32"))
    for number, (split, (inside, prefix, count)) in enumerate(PARTS.items()):
        rows = []
        for i in range(1, count + 1):
            image, mask = made_pair(10 * number + i)
            stem = f"{prefix}_{i:08d}"
            for kind, name, data in (("images", f"{stem}.jpg", image), ("annotations", f"{stem}.png", mask)):
                (folder / kind / inside).mkdir(parents=True, exist_ok=True)
                (folder / kind / inside / name).write_bytes(data)
            # the first file's name is lost, as it is in some copies
            rows.append({"image": {"bytes": image, "path": f"{stem}.jpg" if i > 1 else None}})
            rows[-1] |= {"annotation": {"bytes": mask, "path": None}, "scene_category": 0}
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(str(parquet_dir / f"{split}-00000-of-00001.parquet"))
    (root / "zipped").mkdir()
    shutil.make_archive(str(root / "zipped" / "ADEChallengeData2016"), "zip", root / "unpacked")
    return root


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory):
    return made_ade20k(tmp_path_factory.mktemp("ade20k"))


def ade20k_forms(root):
    return {
        "folder": Ade20kConfig(data_dir=root / "unpacked" / "ADEChallengeData2016"),
        "folder's parent": Ade20kConfig(data_dir=root / "unpacked"),
        "zip": Ade20kConfig(data_dir=root / "zipped" / "ADEChallengeData2016.zip"),
        "zip's parent": Ade20kConfig(data_dir=root / "zipped"),
        "parquet": Ade20kConfig(source=str(root / "parquet")),
    }


@pytest.mark.parametrize("form", ["folder's parent", "zip", "zip's parent", "parquet"])
@pytest.mark.parametrize("split", PARTS)
def test_every_form_of_ade20k_gives_the_same_samples(ade20k, form, split):
    forms = ade20k_forms(ade20k)
    folder, other = forms["folder"].open(split), forms[form].open(split)
    assert len(folder) == len(other) == PARTS[split][2]
    for index in range(len(folder)):
        one, two = folder[index], other[index]
        assert one.id == two.id == f"{PARTS[split][1]}_{index + 1:08d}"
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.labels, two.labels)
        assert tuple(one.labels[0, :2]) == (255, 149)


def test_ade20k_has_its_official_classes():
    labels = Ade20kConfig().labels()
    assert labels.num_labels == 150
    assert labels.names[:3] == ("wall", "building", "sky")
    assert labels.names[-1] == "flag"
    assert labels.palette[0] == (120, 120, 120)
    assert labels.palette[-1] == (92, 0, 255)
    assert labels.table == {255: 255, 0: 255, **{raw: raw - 1 for raw in range(1, 151)}}
    four = Ade20kConfig(merge={"sky": ["sky"], "person": ["person"], "ground": ["road", "floor"], "other": ["*"]})
    assert four.labels().num_labels == 4


def test_ade20k_that_is_not_there_is_an_error(ade20k, tmp_path):
    with pytest.raises(DataError, match=r"no ADE20K in .*: looked for images/training in it"):
        Ade20kConfig(data_dir=tmp_path).open("train")
    with pytest.raises(DataError, match="ade20k has no `test` part"):
        Ade20kConfig(data_dir=ade20k).open("test")
    (tmp_path / "ADEChallengeData2016.zip").write_bytes(b"half a download")
    with pytest.raises(DataError, match=r"ADEChallengeData2016.zip` cannot be read"):
        Ade20kConfig(data_dir=tmp_path).open("train")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with pytest.raises(DataError, match="holds no images/training"):
        Ade20kConfig(data_dir=tmp_path / "other.zip").open("train")
    with pytest.raises(ValidationError, match="both given"):
        Ade20kConfig(data_dir=tmp_path, source="elsewhere")


def test_a_zip_is_read_in_place_by_several_workers(ade20k):
    dataset = ade20k_forms(ade20k)["zip"].open("train")
    loader = eval_loader(dataset, LoaderConfig(workers=2, eval_batch_size=1))
    assert [batch.ids[0] for batch in loader] == [dataset[index].id for index in range(3)]
    assert verify(dataset, workers=2).num_images == 3
    image = dataset.record(0).image
    gone = Record({"path": image["path"].replace("training/", "")}, {}, "gone")
    with pytest.raises(DataError, match=r"2016.zip/ADEChallengeData2016/images/ADE_train_00000001.jpg` is not in"):
        open_record_image(gone)


def test_the_demo_set_has_two_classes_or_four():
    two, four = DemoConfig(), DemoConfig(classes="size")
    assert two.labels().names == ("background", "coin")
    assert four.labels().names == ("background", "small_coin", "medium_coin", "large_coin")
    assert (len(two.open("train")), len(two.open("validation"))) == (48, 12)
    assert np.array_equal(two.open("train")[3].labels, four.open("train")[3].labels > 0)
    with pytest.raises(DataError, match="the demo set has no `test` part"):
        two.open("test")


def test_the_demo_set_is_small_and_says_its_licence():
    files = [path for path in COINS_DIR.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert "public domain" in (COINS_DIR / "LICENSE.md").read_text(encoding="utf-8")


def test_no_pixel_of_the_photograph_is_in_both_parts_of_the_demo_set():
    source = (Path(__file__).parent.parent / "scripts" / "build_demo_data.py").read_text(encoding="utf-8")
    text = source[source.index("CROP_PX") : source.index("def coin_labels")].replace("  # fmt: skip", "")
    made = {}
    exec(text, made)
    lowest = max(top for top, _ in made["TRAIN_CORNERS"]) + made["CROP_PX"]
    assert lowest <= min(top for top, _ in made["VALIDATION_CORNERS"])
    assert len(made["TRAIN_CORNERS"]) == 48
    assert len(made["VALIDATION_CORNERS"]) == 12


def hub_table(count=6, **columns):
    rows = [dict(zip(("image", "label"), made_pair(number), strict=True)) for number in range(count)]
    rows = [{key: {"bytes": data, "path": None} for key, data in row.items()} for row in rows]
    features = datasets.Features(image=datasets.Image(), label=datasets.Image())
    return datasets.Dataset.from_list(rows, features=features)


NAMES = tuple(f"c{i}" for i in range(151))


@pytest.fixture
def parquet_dir(tmp_path):
    path = tmp_path / "made"
    path.mkdir()
    hub_table().to_parquet(str(path / "train-00000-of-00001.parquet"))
    return path


def test_a_local_parquet_folder_opens_as_a_hub_data_set(parquet_dir):
    config = HubConfig(name=str(parquet_dir), classes=NAMES, validation_fraction=0.34)
    train, validation = config.open("train"), config.open("validation")
    assert isinstance(train, Dataset)
    assert (len(train), len(validation)) == (4, 2)
    ids = [train[i].id for i in range(4)] + [validation[i].id for i in range(2)]
    assert sorted(ids) == [f"train-{number:06d}" for number in range(6)]
    assert verify(train, workers=0).num_images == 4
    with pytest.raises(DataError, match="has no `test` part") as caught:
        config.open("test")
    assert "its parts are train" in caught.value.hint


def test_a_streamed_data_set_trains_and_evaluates(parquet_dir):
    hub_table(3).to_parquet(str(parquet_dir / "validation-00000-of-00001.parquet"))
    config = HubConfig(name=str(parquet_dir), classes=NAMES, streaming=True, shuffle_buffer=4)
    train = config.open("train")
    assert isinstance(train, StreamDataset)
    batch = next(iter(train_loader(train, AugmentConfig(crop_size=16), LoaderConfig(batch_size=4, workers=1), seed=0)))
    assert batch.pixel_values.shape == (4, 3, 16, 16)
    held_out = eval_loader(config.open("validation"), LoaderConfig(workers=0))
    assert sum(len(batch) for batch in held_out) == 3


def test_what_a_stream_cannot_do_is_said(parquet_dir):
    with pytest.raises(DataError, match="a stream is not scanned for them") as caught:
        HubConfig(name=str(parquet_dir), streaming=True).open("train")
    assert "data.classes" in caught.value.hint
    with pytest.raises(DataError, match="has no `validation` part") as caught:
        HubConfig(name=str(parquet_dir), streaming=True, classes=NAMES).open("validation")
    assert "data.streaming=false" in caught.value.hint


def test_a_stream_is_not_counted_for_rare_classes():
    with pytest.raises(ValidationError, match="needs every mask to be counted first"):
        HubConfig(name="a/b", streaming=True, rare_class_crop=True)


@pytest.mark.parametrize("beside", [True, False])
def test_hub_classes_come_from_a_file_beside_the_data_or_from_the_masks(parquet_dir, beside):
    if beside:
        text = "{" + ", ".join(f'"{i}": "{name}"' for i, name in enumerate(NAMES)) + "}"
        (parquet_dir / "id2label.json").write_text(text)
    names = HubConfig(name=str(parquet_dir)).labels().names
    assert (names == NAMES) if beside else (names[0] == "class_0" and names[-1] == "class_150")


def test_a_set_that_was_saved_to_disk_opens(tmp_path):
    datasets.DatasetDict(train=hub_table(), val=hub_table(2)).save_to_disk(tmp_path / "saved")
    config = HubConfig(name=str(tmp_path / "saved"), classes=NAMES)
    assert (len(config.open("train")), len(config.open("validation"))) == (6, 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # `datasets` leaves the CSV open
def test_an_image_folder_with_metadata_opens(tmp_path):
    folder = tmp_path / "folder" / "train"
    folder.mkdir(parents=True)
    for number in range(2):
        image, mask = made_pair(number)
        (folder / f"{number}.jpg").write_bytes(image)
        (folder / f"{number}-mask.png").write_bytes(mask)
    (folder / "metadata.csv").write_text("file_name,mask_file_name\n0.jpg,0-mask.png\n1.jpg,1-mask.png\n")
    config = HubConfig(name=str(tmp_path / "folder"), classes=NAMES, validation_fraction=0.5)
    assert config.open("train")[0].labels.shape == (30, 42)


def test_masks_that_are_tables_with_named_classes_open(tmp_path):
    kind = datasets.ClassLabel(names=["sky", "road"])
    features = datasets.Features(photo=datasets.Image(), seg=datasets.List(datasets.List(kind)))
    rows = [{"photo": {"bytes": made_pair(i)[0], "path": None}, "seg": [[0] * 21 + [1] * 21] * 30} for i in range(3)]
    (tmp_path / "nested").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "nested" / "train-00000.parquet"))
    dataset = HubConfig(name=str(tmp_path / "nested")).open("train")
    assert dataset.labels.names == ("sky", "road")
    assert verify(dataset, workers=0).pixels == (2 * 630, 2 * 630)


def test_columns_are_found_by_type_or_named(tmp_path):
    renamed = hub_table().rename_columns({"image": "left", "label": "right"})
    (tmp_path / "odd").mkdir()
    renamed.to_parquet(str(tmp_path / "odd" / "train-00000.parquet"))
    config = HubConfig(name=str(tmp_path / "odd"), classes=NAMES)
    with pytest.raises(DataError, match=r"no column of .* stands out as the images") as caught:
        config.open("train")
    assert "left (Image), right (Image)" in caught.value.hint
    assert len(config.model_copy(update={"image_column": "left"}).open("train")) == 5
    with pytest.raises(DataError, match=r"column `top` of .* is not there \(`data.label_column`\)"):
        config.model_copy(update={"label_column": "top"}).open("train")


def test_a_classification_set_is_told_apart(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "animals" / kind).mkdir(parents=True)
        (tmp_path / "animals" / kind / "1.jpg").write_bytes(made_pair(1)[0])
    with pytest.raises(DataError, match=r"one class for a whole image \(column `label`\)") as caught:
        HubConfig(name=str(tmp_path / "animals")).open("train")
    assert "kind: folder" in caught.value.hint


def scripted(path):
    path.mkdir()
    (path / f"{path.name}.py").write_text("import datasets\n")


def broken(path):
    path.mkdir()
    (path / "train.parquet").write_bytes(b"no parquet")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (scripted, "needs a loading script", "refs/convert/parquet"),
        (Path.mkdir, "cannot be opened by `datasets`", "metadata.csv"),
        (broken, "cannot be opened by `datasets`", "Parquet files"),
        (lambda path: None, "does not exist", "owner/name"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(tmp_path, make, message, hint):
    make(tmp_path / "made")
    with pytest.raises(DataError, match=message) as caught:
        HubConfig(name=str(tmp_path / "made")).open("train")
    assert hint in caught.value.hint


def test_a_hub_that_cannot_be_reached_says_what_to_download():
    with pytest.raises(DataError, match="`merve/scene_parse_150` is not in the local cache") as caught:
        Ade20kConfig().open("train")
    assert "hf download merve/scene_parse_150 --repo-type dataset" in caught.value.hint


class Outer(Config):
    data: DataConfig = DemoConfig()


def test_kind_picks_the_data_set():
    made = TypeAdapter(DataConfig).validate_python({"kind": "folder", "data_dir": "x"})
    assert isinstance(made, FolderConfig)
    outer = Outer.load(sets=["data.kind=hub", "data.name=a/b", "data.streaming=true"])
    assert outer.data == HubConfig(name="a/b", streaming=True)
    with pytest.raises(ConfigError, match="has no such kind"):
        Outer.load(sets=["data.kind=foldr"])
    sets = [
        "data.kind=folder",
        "data.data_dir=x",
        "data.classes=[crack]",
        "data.train.images=a/*.jpg",
        "data.train.masks=b/*",
    ]
    assert Outer.load(sets=sets).data.classes == ("crack",)


def members(root):
    yield from (DemoConfig(), DemoConfig(classes="size"), *ade20k_forms(root).values())
    yield Ade20kFourConfig(data_dir=root / "zipped")
    folder = root / "unpacked" / "ADEChallengeData2016"
    yield FolderConfig(data_dir=folder, classes=tuple(NAMES[1:]), first_value=1, ignored_values=(0,))
    yield HubConfig(name=str(root / "parquet"), classes=NAMES, label_column="annotation")


@pytest.mark.many
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_data_set_keeps_the_contract(ade20k, number, split):
    config = list(members(ade20k))[number]
    dataset = config.open(split)
    assert isinstance(dataset, Dataset)
    assert dataset.labels == config.labels()
    assert len({dataset[index].id for index in range(len(dataset))}) == len(dataset) > 1
    sample = dataset[0]
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (*sample.labels.shape, 3)
    assert set(np.unique(sample.labels)) <= {*range(dataset.labels.num_labels), dataset.labels.ignore_index}
    found = verify(dataset, workers=0)
    assert sum(found.pixels) + found.ignored_pixels == sum(dataset[i].labels.size for i in range(len(dataset)))
    merged = config.model_copy(update={"merge": {"all": ["*"]}, "rare_class_crop": True}).open(split)
    assert merged.labels.names == ("all",)
    assert merged.rare_class_crop


@pytest.mark.parametrize("number", range(11))
def test_every_data_set_gives_clips_or_says_why_not(ade20k, made_frames, number):
    dataset = [*members(ade20k), FramesConfig(data_dir=made_frames)][number].open("train")
    assert isinstance(dataset.clips(0)[0], Sample)
    if number < 10:
        with pytest.raises(
            ConfigError, match="does not say which frames come before an image: the model is to be shown 2"
        ):
            dataset.clips(2)
        return
    clips = dataset.clips(2)
    assert isinstance(clips, Dataset)
    clip = clips[0]
    assert isinstance(clip, Clip)
    assert clip.frames.shape == (3, *clip.labels.shape, 3)
    assert np.array_equal(clip.image, dataset[0].image)
    assert np.array_equal(clip.labels, dataset[0].labels)


@pytest.fixture(scope="module")
def made_frames(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    for number in range(12):
        for kind, data in zip(("images", "masks"), made_pair(1), strict=True):
            (root / kind).mkdir(exist_ok=True)
            (root / kind / f"{number:03d}.{'jpg' if kind == 'images' else 'png'}").write_bytes(data)
    return root


def test_a_stream_knows_no_frames_before(parquet_dir):
    stream = HubConfig(name=str(parquet_dir), classes=NAMES, streaming=True).open("train")
    assert stream.clips(0) is stream
    with pytest.raises(ConfigError, match="does not say which frames come before"):
        stream.clips(1)
