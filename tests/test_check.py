"""What is said about data and settings before a run, and that it is true."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted import painted
from PIL import Image

from hfseg.data import AugmentConfig, FolderConfig, Photometric, duplicates, train_loader
from hfseg.data.census import Census, census
from hfseg.data.duplicates import Prints, find_overlaps, find_twins, look_of, take_prints
from hfseg.data.verify import inspect
from hfseg.engine.dry_run import DryRun, dry_run, estimate
from hfseg.engine.machine import MemoryUse, memory_use
from hfseg.engine.optim import OptimConfig
from hfseg.engine.plan import TrainConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.task import Task
from hfseg.errors import ConfigError, RunFailed
from hfseg.labels import LabelSpace
from hfseg.recipes import check
from hfseg.recipes.check import advice
from hfseg.recipes.check.result import CheckResult
from hfseg.recipes.run import FinetuneConfig
from hfseg.values import Batch
from hfseg.viz.check import check_text, duration
from hfseg.viz.grid import GAP_PX, TILE_PX, grid

SPACE = LabelSpace.from_names(["a", "b", "c"])


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A picture of large coloured spots, unlike that of any other seed."""
    spots = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC))


def mask_of(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (side, side), dtype=np.uint8)


def folder_of(path: Path, train: int = 6, validation: int = 4) -> Path:
    """Write a folder of images and masks whose validation images are others than those it trains on."""
    for part, numbers in {"train": range(train), "val": range(100, 100 + validation)}.items():
        for kind in ("images", "masks"):
            (path / kind / part).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(scene(number)).save(path / "images" / part / f"{number:03d}.jpg", quality=92)
            Image.fromarray(mask_of(number)).save(path / "masks" / part / f"{number:03d}.png")
    return path


def encoded(image: Image.Image, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return Image.open(buffer).convert("RGB")


# What is wrong with files


def break_value(path: Path) -> None:
    mask = mask_of(0)
    mask[0, :3], mask[5, 5] = 7, 9
    Image.fromarray(mask).save(path / "masks/train/000.png")


def break_size(path: Path) -> None:
    Image.fromarray(mask_of(0)[:-5]).save(path / "masks/train/000.png")


def break_mask(path: Path) -> None:
    file = path / "masks/train/000.png"
    file.write_bytes(file.read_bytes()[:80])


def break_mode(path: Path) -> None:
    Image.fromarray(np.stack([mask_of(0), mask_of(1), mask_of(2)], -1)).save(path / "masks/train/000.png")


def break_header(path: Path) -> None:
    (path / "images/train/000.jpg").write_bytes(b"no image")


BROKEN = {
    "value": (break_value, "masks/train/000.png", {"7": 3, "9": 1}),
    "size": (break_size, "masks/train/000.png", {}),
    "mask": (break_mask, "masks/train/000.png", {}),
    "mode": (break_mode, "masks/train/000.png", {}),
    "image": (break_header, "images/train/000.jpg", {}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_problem_names_its_kind_its_file_and_its_values(tmp_path, kind):
    damage, file, values = BROKEN[kind]
    damage(folder_of(tmp_path))
    found = inspect(FolderConfig(data_dir=tmp_path, classes=("a", "b", "c")).open("train"), workers=1)
    (problem,) = found.problems
    assert (problem.kind, problem.index, problem.values) == (kind, 0, values)
    assert Path(problem.file) == tmp_path / file
    assert found.usable == (1, 2, 3, 4, 5)


def test_colours_that_stand_for_no_class_are_counted(tmp_path):
    colors = {"a": (0, 0, 0), "b": (9, 9, 200)}
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[0, :4], mask[1, :2], mask[2] = (1, 2, 3), (4, 5, 6), (9, 9, 200)
    folder_of(tmp_path, train=1)
    for file in tmp_path.glob("masks/*/*.png"):
        Image.fromarray(mask).save(file)
    found = inspect(FolderConfig(data_dir=tmp_path, colors=colors).open("train"), workers=0)
    assert found.problems[0].values == {"(1, 2, 3)": 4, "(4, 5, 6)": 2}


def test_a_broken_mask_does_not_hide_a_broken_image(tmp_path):
    folder_of(tmp_path)
    break_mask(tmp_path)
    break_header(tmp_path)
    found = inspect(FolderConfig(data_dir=tmp_path, classes=("a", "b", "c")).open("train"), workers=0)
    assert [problem.kind for problem in found.problems] == ["mask", "image"]


def test_a_census_counts_what_a_plain_loop_counts():
    masks = [np.random.default_rng(n).choice([0, 1, 255], size=(20, 24 + n % 2)).astype(np.uint8) for n in range(5)]
    masks[3][:] = 255
    dataset = painted([(np.zeros((*mask.shape, 3), np.uint8), mask) for mask in masks], SPACE)
    found = census(inspect(dataset, workers=2), SPACE)
    for label, row in enumerate(found.classes):
        held = [int((mask == label).sum()) for mask in masks if (mask == label).any()]
        assert (row.pixels, row.images) == (sum(held), len(held))
        assert (row.least, row.median, row.most) == ((min(held), np.median(held), max(held)) if held else (0, 0, 0))
    assert found.absent == ("c",)
    assert found.ignored_share == pytest.approx(np.mean([m == 255 for m in np.concatenate([m.ravel() for m in masks])]))
    assert found.sizes == {(20, 24): 3, (20, 25): 2}
    assert found.mask_modes == {"L": 5}
    assert sum(row.share for row in found.classes) == pytest.approx(1)


# Pictures that are there twice


def prints_of(*images: np.ndarray) -> Prints:
    return take_prints(painted([(image, np.zeros(image.shape[:2], np.uint8)) for image in images], SPACE), workers=0)


def test_the_difference_is_the_share_of_set_bits_that_are_not_common():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((7, 192)) < 0.4, rng.random((9, 192)) < 0.4
    theirs[2] = ours[3]
    theirs[4] = ours[1] ^ (rng.random(192) < 0.05)

    def packed(bits):
        return np.packbits(bits, axis=1).view(np.uint64)

    found = duplicates._differences(packed(ours), packed(theirs))
    wanted = np.array([[(a ^ b).sum() / (a | b).sum() for b in theirs] for a in ours])
    assert np.array_equal(found, np.where(wanted <= duplicates.NEAR, wanted, np.inf).astype(np.float32))
    assert found[3, 2] == 0
    assert 0 < found[1, 4] < duplicates.NEAR


def test_twins_do_not_depend_on_how_many_pairs_are_compared_at_once(monkeypatch):
    images = [scene(number % 7) for number in range(20)]
    changed = [np.clip(image.astype(int) + 9, 0, 255).astype(np.uint8) for image in images]
    ours, others = prints_of(*changed), prints_of(*images[3:])
    whole = find_twins(ours, others), find_twins(ours)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 40)
    assert (find_twins(ours, others), find_twins(ours)) == whole
    assert len(whole[0]) == 20
    assert len(whole[1]) == 13  # seven scenes are there for the first time


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image, quality=40), id="encoded"),
        pytest.param(lambda image: image.resize((60, 60), Image.Resampling.LANCZOS), id="smaller"),
        pytest.param(lambda image: image.point(lambda value: min(255, int(1.1 * value))), id="brighter"),
        pytest.param(lambda image: image.crop((2, 2, 126, 126)), id="cropped"),
    ],
)
def test_a_changed_picture_is_near_its_own_and_no_other(change):
    originals = [Image.fromarray(scene(number, side=128)) for number in range(12)]
    changed = prints_of(*(np.asarray(change(image)) for image in originals))
    twins = find_twins(changed, prints_of(*(np.asarray(image) for image in originals)))
    assert len(twins) == 12
    assert all(twin.image == twin.twin and not twin.is_same_file for twin in twins)


def test_the_same_file_is_told_from_the_same_look():
    image = scene(1)
    prints = prints_of(image, scene(2), image, np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8))
    same, near = find_twins(prints)
    assert (same.image, same.twin, same.is_same_file, same.difference) == ("image of 2", "image of 0", True, 0)
    assert (near.image, near.is_same_file) == ("image of 3", False)


def test_plain_pictures_match_no_others_but_their_own_file():
    flat = [np.full((40, 40, 3), value, np.uint8) for value in (0, 255, 90)]
    noise = np.random.default_rng(0).integers(89, 91, (40, 40, 3), dtype=np.uint8)
    prints = prints_of(*flat, noise, scene(1), flat[1])
    assert prints.num_plain == 5
    (twin,) = find_twins(prints)
    assert (twin.image, twin.twin, twin.is_same_file) == ("image of 5", "image of 1", True)


def test_grey_pictures_must_be_more_alike_than_coloured_ones():
    grey = np.repeat(scene(5)[..., :1], 3, axis=2)
    one = look_of(Image.fromarray(grey))
    assert np.bitwise_count(one).tolist()[1:] == [0, 0]
    other = one.copy()
    other[0] ^= np.uint64(0b1111)  # four of some thirty bits: near for a picture with colours, not for this one
    assert not np.isfinite(duplicates._differences(one[None], other[None])).any()


def test_each_part_is_compared_with_those_before_it_and_with_itself():
    parts = {"train": prints_of(scene(1), scene(2)), "validation": prints_of(scene(2), scene(3), scene(3))}
    found = find_overlaps(parts)
    assert [(overlap.part, overlap.among, len(overlap.twins)) for overlap in found] == [
        ("validation", "train", 1),
        ("train", "train", 0),
        ("validation", "validation", 1),
    ]
    assert (found[0].num_images, found[0].num_same_files) == (3, 1)


def test_a_truncated_image_is_found_where_its_header_is_whole(tmp_path):
    file = folder_of(tmp_path) / "images/train/002.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    dataset = FolderConfig(data_dir=tmp_path, classes=("a", "b", "c")).open("train")
    assert inspect(dataset, workers=0).problems == ()
    prints = take_prints(dataset, workers=2)
    (problem,) = prints.problems
    assert (problem.kind, problem.index, problem.file) == ("image", 2, str(file))
    assert len(prints.names) == 5


# What a run costs


def dry(**changes) -> DryRun:
    values = {"step_s": 2.0, "batch_s": 0.5, "validation_s": 3.0, "memory": MemoryUse("", 10, 1, 2), "losses": {}}
    return DryRun(**(values | changes))


def test_an_estimate_extends_a_dry_run_to_the_plan():
    plan = TrainConfig(steps=100, eval_every=30, accumulation=2).plan(50)
    alone = estimate(dry(), plan, validation_share=0.1, is_overlapped=False)
    assert alone.num_validations == 5  # after 30, 60, 90 and 100 steps, and of the best weights
    assert (alone.training_s, alone.waiting_s, alone.validation_s) == (300.0, 100.0, pytest.approx(150.0))
    assert alone.total_s == pytest.approx(450.0)
    hidden = estimate(dry(), plan, validation_share=0.1, is_overlapped=True)
    assert (hidden.training_s, hidden.waiting_s) == (200.0, 0.0)
    starved = estimate(dry(batch_s=1.5), plan, validation_share=0.1, is_overlapped=True)
    assert (starved.training_s, starved.waiting_s) == (300.0, 100.0)


def test_memory_that_was_taken_and_given_back_is_seen():
    with memory_use("cpu") as use:
        taken = np.ones(80_000_000, np.uint8)
        until = time.monotonic() + 60
        while use.peak - use.before < taken.nbytes / 2 and time.monotonic() < until:
            time.sleep(0.001)  # it is looked at every few milliseconds, much later on a busy machine
        del taken
    assert use.peak - use.before > 60_000_000
    assert use.limit > use.peak


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(1))


def line_task(scale: float, seen: list[str]) -> Task:
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8), ("x", "y"))

    def loss_fn(model, batch):
        seen.append("step")
        return {"total": scale * model.slope.sum()}

    def validate():
        seen.append("validation")
        return {}

    def endless(start):
        while True:
            yield batch

    def nothing(*_):
        raise AssertionError("a dry run writes nothing")

    return Task(
        Line(),
        endless,
        lambda b: b,
        loss_fn,
        validate,
        nothing,
        lambda step: seen.append(f"thaw {step}"),
        0,
        unfreeze_steps=(3, 7),
    )


def test_a_dry_run_steps_and_validates_with_everything_set_free():
    seen: list[str] = []
    task, plan = line_task(1.0, seen), TrainConfig(steps=10, accumulation=2).plan(5)
    found = dry_run(task, plan, OptimConfig(), RuntimeConfig(cpu=True).start(), num_batches=3)
    assert seen == ["thaw 7", *["step"] * 2 * 4, *["validation"] * 2]
    assert found.losses == {"total": 1.0}
    assert task.model.slope.item() < 1


def test_a_dry_run_stops_on_a_loss_that_is_not_finite():
    task, plan = line_task(float("nan"), []), TrainConfig(steps=10).plan(5)
    with pytest.raises(RunFailed, match="the first loss is nan: the batch holds `x`, `y`"):
        dry_run(task, plan, OptimConfig(), RuntimeConfig(cpu=True).start(), num_batches=1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(40.0, "40 s"), (600.0, "10 min"), (11_130.0, "3 h 05 min"), (200_000.0, "2 d 7 h")]
)
def test_durations_are_written_in_units_that_matter(seconds, text):
    assert duration(seconds) == text


# What one would want to be told


def found_in(*pixels: tuple[int, ...], ignored: float = 0.0, sizes=None) -> Census:
    """A census of made-up pixels of `a`, `b` and `c`, one tuple for each image."""
    counts = np.array(pixels)
    dataset = painted([(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)) for _ in pixels], SPACE)
    findings = inspect(dataset, workers=0)
    more = (counts.sum(1) * ignored / (1 - ignored)).round().astype(int)
    sizes = sizes or findings.image_sizes
    return census(replace(findings, counts=counts, ignored=more, image_sizes=sizes), SPACE)


def said(advised) -> list[str]:
    return [each.message for each in advised]


def test_absent_and_rare_classes_and_ignored_pixels_are_spoken_of():
    parts = {"train": found_in((1000, 900, 5)), "validation": found_in((10, 0, 10), ignored=0.8)}
    assert said(advice.about_classes(parts)) == [
        "validation holds no pixel of `b`",
        "80.0 % of the pixels of validation are ignored",
        "classes with less than 1 % of the pixels of `a`: `c` (0.26 %)",
    ]
    assert said(advice.about_classes({"train": found_in((10, 10, 10)), "validation": found_in((1, 1, 1))})) == []


def test_crops_beyond_the_images_are_spoken_of():
    parts = {"train": found_in((1, 1, 1), (1, 1, 1), sizes=((100, 200), (50, 50)))}
    assert said(advice.about_sizes(parts, AugmentConfig(crop_size=(100, 120)))) == [
        "the crop of 100 x 120 is larger than 1 of 2 training images at scale 1: the rest of it is padding"
    ]
    assert said(advice.about_sizes(parts, AugmentConfig(crop_size=(100, 100), short_side=100))) == []


def test_lengths_that_do_not_fit_are_spoken_of():
    config = FinetuneConfig.load(
        flags={"train.steps": 10, "train.accumulation": 3, "optim.warmup_steps": 10, "loader.batch_size": 8}
    )
    found = said(advice.about_length(config, config.train.plan(2), 2, 20))
    assert found[0].startswith("4 of 20 training images are left out of each epoch")
    assert found[1:] == [
        "a step takes 3 batches and an epoch has 2",
        "the warm-up of 10 steps is not over when the run is, after 10: the learning rate never reaches 6e-05",
    ]
    assert said(advice.about_length(FinetuneConfig(), FinetuneConfig().train.plan(2), 2, 17)) == []


def test_full_memory_and_costly_validation_are_spoken_of():
    runtime, plan = RuntimeConfig(cpu=True).start(), TrainConfig(steps=10).plan(1)
    tried = dry(memory=MemoryUse("", 10 * 2**30, 0, 95 * 2**30 // 10), validation_s=100.0)
    found = said(advice.about_cost(tried, estimate(tried, plan, validation_share=1.0, is_overlapped=False), runtime))
    assert found == ["9.50 of 10.00 GiB of memory are taken", "validations take 98 % of the run"]
    calm = dry(validation_s=0.1)
    assert said(advice.about_cost(calm, estimate(calm, plan, validation_share=1.0, is_overlapped=False), runtime)) == []


# Pictures


def test_a_grid_shows_each_picture_in_its_place_with_its_labels_on_top():
    pictures = [(np.full((50, 60, 3), 100, np.uint8), np.full((50, 60), label, np.uint8)) for label in (0, 1, 2, 0, 1)]
    drawn = np.asarray(grid(pictures, SPACE, columns=3))
    for place, (_, ids) in enumerate(pictures):
        top, left = place // 3 * (50 + GAP_PX), place % 3 * (60 + GAP_PX)
        wanted = 100 + 0.4 * (np.array(SPACE.palette[ids[0, 0]]) - 100)
        assert abs(drawn[top + 25, left + 30] - wanted).max() <= 1
    assert (drawn[50 + GAP_PX + 25, 2 * (60 + GAP_PX) + 30] == 255).all()  # there is no sixth


def test_large_pictures_are_reduced_and_no_pictures_are_refused():
    picture = np.zeros((500, 1000, 3), np.uint8), np.zeros((500, 1000), np.uint8)
    assert grid([picture], SPACE).width == TILE_PX
    with pytest.raises(ValueError, match="got none"):
        grid([], SPACE)


# The whole


def config_of(path: Path, **flags) -> FinetuneConfig:
    settings = {
        "data.kind": "folder",
        "data.data_dir": str(path),
        "data.classes": ["a", "b", "c"],
        "augment.crop_size": 32,
        "loader.batch_size": 2,
        "loader.workers": 0,
        "model.kind": "segformer",
        "model.backbone": "mit-b0",
        "model.pretrained": "none",
        "runtime.cpu": True,
        "train.steps": 3,
    }
    return FinetuneConfig.load(flags={key: value for key, value in (settings | flags).items() if value is not None})


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> tuple[CheckResult, Path, Path]:
    data_dir = folder_of(tmp_path_factory.mktemp("data"))
    copied = data_dir / "images/val/100.jpg"
    copied.write_bytes((data_dir / "images/train/003.jpg").read_bytes())
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    output = tmp_path_factory.mktemp("out") / "check"
    result = check.run(config_of(data_dir), output=output, samples=5)
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before
    return result, data_dir, output


@pytest.mark.slow
def test_a_check_leaves_its_result_and_its_samples_and_nothing_else(checked):
    result, _, output = checked
    assert sorted(path.name for path in output.iterdir()) == ["check.json", "samples.png"]
    assert json.loads((output / "check.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    with Image.open(output / "samples.png") as drawn:
        assert drawn.width > 4 * 32
        assert 2 * (32 + GAP_PX) < drawn.height < 4 * (32 + GAP_PX)  # five samples stand in two rows


@pytest.mark.slow
def test_a_check_tells_parts_classes_duplicates_and_costs(checked):
    found = checked[0].to_dict()
    assert found["ok"]
    train = found["parts"]["train"]
    assert (train["images"], train["unusable"], train["mask_modes"], train["absent"]) == (6, 0, {"L": 6}, ["c"])
    assert train["sizes"] == [{"height": 64, "width": 64, "images": 6}]
    assert sum(row["pixels"] for row in train["classes"]) == 6 * 64 * 64
    assert "no `test` part" in found["parts"]["test"]["reason"]
    across = found["overlaps"][0]
    assert (across["part"], across["among"], across["same_files"], len(across["twins"])) == (
        "validation",
        "train",
        1,
        1,
    )
    assert found["estimate"]["num_steps"] == 3
    assert found["dry_run"]["memory"]["peak"] > 0
    assert found["estimate"]["total_s"] > 0


@pytest.mark.slow
def test_a_check_reads_as_text(checked):
    text = checked[0].to_text()
    assert "train: 6 images, 0 of them not usable; 64 x 64 (6); masks of mode L (6)" in text
    assert "no pixel anywhere: c" in text
    assert "validation: 1 of 4 images nearly repeat one in train, 1 as the same file" in text
    assert "  val/100.jpg ~ train/003.jpg: the same file" in text
    assert "warning: 1 of 4 validation images have a near duplicate in train, 1 of them the same file" in text
    assert "the whole run: about" in text
    assert text.splitlines()[-1].startswith("0 problems, ")


@pytest.mark.slow
def test_the_samples_are_the_first_that_the_model_will_be_trained_on(checked, monkeypatch):
    drawn = []
    monkeypatch.setattr(check, "grid", lambda pictures, labels: drawn.extend(pictures) or Image.new("RGB", (1, 1)))
    config, output = config_of(checked[1]), checked[2].with_name("again")
    check.run(config, output=output, samples=3)
    batches = iter(train_loader(config.data.open("train"), config.augment, config.loader, seed=config.seed))
    seen = [Photometric(config.augment)(next(batches)) for _ in range(2)]
    images = torch.cat([batch.pixel_values for batch in seen])[:3].permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack([image for image, _ in drawn]) / 255 - images).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(np.stack([ids for _, ids in drawn]), torch.cat([batch.labels for batch in seen])[:3])


@pytest.mark.slow
def test_everything_that_is_wrong_is_told_and_the_rest_is_tried(tmp_path, monkeypatch):
    data_dir, here = folder_of(tmp_path / "data"), tmp_path / "here"
    break_value(data_dir)
    truncated = data_dir / "images/train/002.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    Image.fromarray(mask_of(0)[1:]).save(data_dir / "masks/val/101.png")
    here.mkdir()
    monkeypatch.chdir(here)
    result = check.run(config_of(data_dir))
    assert list(here.iterdir()) == []
    assert [(problem["part"], problem["kind"]) for problem in result.problems] == [
        ("train", "value"),
        ("train", "image"),
        ("validation", "size"),
    ]
    found = result.to_dict()
    assert not found["ok"]
    assert (found["parts"]["train"]["unusable"], found["parts"]["validation"]["unusable"]) == (2, 1)
    assert found["dry_run"]["validation_images"] == 3
    text = result.to_text()
    assert "error: train, value: 1\n  `" in text
    assert "mask has the value 7 in 3 pixels, 9 in 1 pixels: expected 0 to 2, 255" in text
    assert "3 problems, " in text


@pytest.mark.slow
def test_a_stream_is_tried_without_being_read_as_a_whole(tmp_path):
    for part, count in {"train": 6, "validation": 12}.items():
        made = painted([(scene(number), mask_of(number)) for number in range(count)], SPACE)
        made.table.to_parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    stream = {"data.kind": "hub", "data.name": str(tmp_path), "data.streaming": True, "data.data_dir": None}
    flags = {"train.eval_every": 2, "loader.eval_batch_size": 3}
    config = config_of(tmp_path, **flags, **stream)
    found = check.run(config).to_dict()
    assert found["problems"] == []
    assert "is streamed: it is not read as a whole" in found["parts"]["train"]["reason"]
    assert found["overlaps"] == []
    assert found["estimate"]["num_validations"] == 3
    assert "validating the first images" in check_text(found)
    assert "the length of the validation stream is not known" in " ".join(found["estimate"]["assumptions"])


def test_a_missing_partner_is_a_problem_told_once(tmp_path):
    (folder_of(tmp_path) / "masks/train/001.png").unlink()
    result = check.run(config_of(tmp_path))
    assert result.trial is None
    (problem,) = result.problems
    assert "1 of 6 images have no mask (`001.jpg`)" in problem["message"]
    assert result.to_text().splitlines()[-1] == "1 problems, 0 warnings"


def test_a_part_of_which_nothing_can_be_used_is_a_problem(tmp_path):
    for file in (folder_of(tmp_path) / "masks/val").iterdir():
        Image.fromarray(np.full((64, 64), 9, np.uint8)).save(file)
    problems = check.run(config_of(tmp_path)).problems
    assert [problem["kind"] for problem in problems] == [*["value"] * 4, "dry run"]
    assert problems[-1]["message"] == "no validation image can be used: nothing was tried"


def test_a_model_that_cannot_be_built_is_a_problem_beside_what_was_found_in_the_data(tmp_path):
    result = check.run(config_of(folder_of(tmp_path), **{"model.backbone": "no-such"}))
    assert [problem["kind"] for problem in result.problems] == ["dry run"]
    assert result.to_dict()["parts"]["train"]["images"] == 6


@pytest.mark.slow
def test_the_groups_of_the_optimizer_are_told_where_rates_differ_by_depth(tmp_path):
    config = config_of(folder_of(tmp_path), **{"optim.layer_decay": 0.5, "optim.head_lr": 10, "optim.lr": 1e-3})
    result = check.run(config)
    groups = result.to_dict()["groups"]
    assert [group["depth"] for group in groups] == sorted(group["depth"] for group in groups)
    assert {group["depth"]: group["lr_scale"] for group in groups} == {
        1: 0.5**4, 2: 0.5**3, 3: 0.25, 4: 0.5, 5: 10.0,
    }  # fmt: skip
    model = config.model.build(SPACE)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(group["parameters"] for group in groups) == trained
    text = result.to_text()
    assert f"groups of the optimizer: {trained:,} parameters, each in one of them" in text.replace("\u202f", ",")
    row = next(line for line in text.splitlines() if line.lstrip().startswith("5 "))
    assert "0.01" in row
    assert " 10 " in row
    assert "decode_head." in row


@pytest.mark.slow
def test_sharded_weights_are_tried_whole_and_what_they_cannot_do_is_told(tmp_path):
    folder_of(tmp_path)
    found = check.run(config_of(tmp_path, **{"runtime.sharding": "fsdp"})).to_dict()
    assert found["ok"]
    assert any(text.startswith("weights are whole here") for text in found["estimate"]["assumptions"])
    (problem,) = check.run(config_of(tmp_path, **{"runtime.sharding": "fsdp", "optim.name": "sgd"})).problems
    assert problem["message"] == "weights cannot be sharded here: `optim.name=sgd` has no fused step for them"


def test_a_dry_run_without_memory_says_how_large_everything_is():
    def without_memory(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    task, plan = replace(line_task(1.0, []), loss_fn=without_memory), TrainConfig(steps=10).plan(5)
    with pytest.raises(RunFailed, match="memory of `cpu` does not suffice: 2 images of 4 x 4 pixels in a batch"):
        dry_run(task, plan, OptimConfig(), RuntimeConfig(cpu=True).start(), num_batches=1)


def test_a_check_does_not_write_over_anything(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"):
        check.run(config_of(tmp_path), output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_many_problems_of_a_kind_are_counted():
    problem = {"part": "train", "kind": "value", "message": "m", "hint": "h"}
    empty = {
        "parts": {},
        "groups": [],
        "overlaps": [],
        "dry_run": None,
        "estimate": None,
        "warnings": [],
        "samples": None,
    }
    text = check_text({**empty, "problems": [{**problem, "message": f"m{number}"} for number in range(11)]})
    assert text.startswith("error: train, value: 11\n  m0\n")
    assert "  m7\n  and 3 more\n  hint: h\n" in text
