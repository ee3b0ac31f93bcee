"""From the command line to files on the disk, on the demo images."""

import json
import os
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from commands import QUICK, hfseg, installed, start
from PIL import Image
from safetensors.torch import load_file

from hfseg.recipes.run import FinetuneConfig

pytestmark = pytest.mark.slow
SIX = ["--steps", "6", "--set", "train.eval_every=3", "--set", "train.log_every=1"]


def records(run: Path, event: str) -> list[dict]:
    noise = {"seconds", "images_per_s", "data_wait", "peak_memory_mb"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in noise} for line in lines if line["event"] == event]


def weights(run: Path, name: str = "last") -> dict:
    return load_file(run / name / "model.safetensors")


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not one[name].equal(other[name])]
    assert not different, different


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "six"
    done = installed("finetune", *QUICK, *SIX, "--output", folder)
    assert "mIoU" in done.stdout
    assert "step 6/6" in done.stderr
    return folder


def test_six_steps_leave_exactly_these_files(run):
    model = {"config.json", "model.safetensors", "preprocessor_config.json"}
    state = {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    top = {"config.yaml", "env.json", "log.jsonl", "parameters.json", "report.html"}
    top |= {"counts.safetensors", "images.csv", "metrics.csv", "metrics.json"}
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    drawn = {name for name in found if name.startswith(("predictions/", "plots/"))}
    assert found - drawn == {
        *top,
        *(f"{folder}/{name}" for folder in ("best-miou", "best-loss", "last") for name in model),
        *(f"checkpoints/step-00000{step}/{name}" for step in (3, 6) for name in state),
    }
    assert len([name for name in drawn if name.startswith("predictions/")]) == 6


def test_the_log_and_the_scores_agree(run):
    validations = records(run, "validation")
    assert [line["step"] for line in validations] == [3, 6]
    best = max(line["mean_iou"] for line in validations)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["mean_iou"] == best
    assert metrics["dataset"] == {"kind": "demo", "split": "validation", "images": 12}
    assert sum(map(sum, metrics["confusion"])) == sum(row["label_pixels"] for row in metrics["classes"])
    assert len(records(run, "train")) == 6


def test_the_saved_config_repeats_the_run(run, tmp_path):
    hfseg("finetune", "--config", run / "config.yaml", "--output", tmp_path / "again")
    assert records(tmp_path / "again", "train") == records(run, "train")
    assert_same_weights(weights(tmp_path / "again"), weights(run))
    assert FinetuneConfig.load(yaml_path=run / "config.yaml").seed == 0


def test_a_killed_run_goes_on_to_the_same_weights(run, tmp_path):
    folder = tmp_path / "killed"
    with start("finetune", *QUICK, *SIX, "--output", folder) as process:
        while not (folder / "checkpoints" / "step-000003").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    installed("finetune", "--output", folder, "--resume")
    assert_same_weights(weights(folder), weights(run))
    assert_same_weights(weights(folder, "best-miou"), weights(run, "best-miou"))
    assert records(folder, "train") == records(run, "train")
    assert records(folder, "validation") == records(run, "validation")


def test_sigterm_saves_and_says_how_to_go_on(run, tmp_path):
    folder = tmp_path / "stopped"
    with start("finetune", *QUICK, *SIX, "--output", folder) as process:
        while not (folder / "log.jsonl").exists() or not (folder / "log.jsonl").read_text():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM after step" in said
    assert f"hfseg finetune --output {folder} --resume" in said
    hfseg("finetune", "--output", folder, "--resume")
    assert_same_weights(weights(folder), weights(run))


def test_evaluate_gives_the_scores_of_the_run(run):
    done = installed("evaluate", run, "--json")
    found, kept = json.loads(done.stdout), json.loads((run / "metrics.json").read_text())
    assert found["confusion"] == kept["confusion"]
    table = hfseg("evaluate", run, "--split", "train").stdout
    assert "background" in table
    assert "coin" in table
    assert (run / "eval" / "six" / "train-whole-image-native-size" / "metrics.json").is_file()


def test_predict_draws_masks_of_the_images_own_size_and_names_broken_files(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in {"wide": (97, 64), "tall": (50, 101)}.items():
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    done = installed("predict", run, tmp_path, "--output", tmp_path / "out", code=1)
    assert "broken.jpg" in done.stderr
    mask = Image.open(tmp_path / "out" / "wide.png")
    assert (mask.mode, mask.size) == ("P", (97, 64))
    assert set(np.unique(np.asarray(mask))) <= {0, 1}
    assert len(done.stdout.splitlines()) == 6


def test_the_report_can_be_rebuilt_from_the_folder(run):
    page = run / "report.html"
    page.unlink()
    assert hfseg("report", run).stdout.strip() == str(page)
    assert page.stat().st_size < 5_000_000


def test_a_run_is_the_start_of_another_with_other_classes(run, tmp_path):
    hfseg(
        "finetune", "--model", run, "--set", "data.classes=size", *QUICK, "--steps", "2", "--output", tmp_path / "next"
    )
    config = json.loads((tmp_path / "next" / "last" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["background", "small_coin", "medium_coin", "large_coin"]


def test_another_encoder_on_the_demo_images_keeps_their_settings_and_takes_the_flags(tmp_path):
    tiny = '{"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}'
    hfseg(
        *("finetune", "--backbone", "nat", "--pretrained", "none", "--set", f"model.overrides={tiny}"),
        *("--set", "model.hidden_size=8", "--crop-size", "64", "--steps", "1", "--output", tmp_path / "run"),
    )
    settings = FinetuneConfig.load(yaml_path=tmp_path / "run" / "config.yaml")
    assert (settings.model.kind, settings.model.backbone, settings.model.pretrained) == ("upernet", "nat", "none")
    assert (settings.optim.lr, settings.train.steps, settings.augment.crop) == (1e-3, 1, (64, 64))


def test_a_stream_trains_evaluates_and_resumes(run, tmp_path):
    rng = np.random.default_rng(0)
    features = datasets.Features(image=datasets.Image(), label=datasets.Image())
    for part, count in {"train": 40, "validation": 5}.items():
        rows = []
        for _ in range(count):
            labels = (rng.random((40, 48)) < 0.3).astype(np.uint8)
            image = rng.integers(0, 100, (40, 48, 3)) + 100 * labels[..., None]
            rows.append({"image": Image.fromarray(image.astype(np.uint8)), "label": Image.fromarray(labels)})
        path = tmp_path / "set" / "data" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    command = [
        *("finetune", "--dataset", f"hub:{tmp_path / 'set'}", "--classes", "paper,ink", "--pretrained", "none"),
        *(
            "--backbone",
            "mit-b0",
            "--set",
            "data.streaming=true",
            *QUICK,
            "--steps",
            "6",
            "--set",
            "train.eval_every=3",
        ),
    ]
    hfseg(*command, "--output", tmp_path / "whole")
    with start(*command, "--output", tmp_path / "cut") as process:
        while not (tmp_path / "cut" / "checkpoints" / "step-000003").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    hfseg("finetune", "--output", tmp_path / "cut", "--resume")
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["dataset"]["images"] == 5


def test_resuming_with_other_settings_names_them(run):
    done = hfseg("finetune", "--output", run, "--resume", "--lr", "0.5", code=2)
    assert "`optim.lr` was 0.001, got 0.5" in done.stderr


def test_resuming_a_finished_run_changes_nothing(run):
    before = weights(run)
    hfseg("finetune", "--output", run, "--resume")
    assert_same_weights(weights(run), before)


@pytest.mark.slow
def test_a_run_that_is_validated_in_windows_knows_no_loss(tmp_path):
    windows = ["--set", "evaluation.kind=slide", "--set", "evaluation.crop_size=96"]
    hfseg("finetune", *QUICK, "--steps", "2", *windows, "--output", tmp_path / "run")
    (validation,) = records(tmp_path / "run", "validation")
    assert validation["loss"] is None
    assert validation["best_miou"]
    assert not (tmp_path / "run" / "best-loss").exists()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["protocol"]["text"] == "slide 96 x 96, stride 64 x 64, native size"
    assert metrics["mean_iou"] == validation["mean_iou"]
    again = json.loads(hfseg("evaluate", tmp_path / "run", "--json").stdout)
    assert again["confusion"] == metrics["confusion"]
