"""A model with memory from frames to scores: check, training, the best model scored, evaluation of another part."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from test_models_backbones import TINY

from hfseg.data import DemoConfig
from hfseg.engine.evaluation import evaluate as score
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.errors import ConfigError
from hfseg.models import CheckpointModelConfig, open_model
from hfseg.recipes import check, evaluate, finetune
from hfseg.recipes.compare.study import StudyConfig, check_comparable
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.scoring import counting, shown_batches
from hfseg.recipes.training import memory_frames, open_data

pytestmark = pytest.mark.slow

MEMORY = {
    "kind": "tmanet", "backbone": "resnet", "pretrained": "none", "overrides": TINY["resnet"], "memory_frames": 2,
    "attention": {"kind": "nonlocal", "channels": 16, "key_channels": 4, "value_channels": 8}, "auxiliary_channels": 8,
}  # fmt: skip


def no_clips(street):
    """The settings of images."""
    return {
        "data": {"kind": "frames", "data_dir": street, "split_gap": 2},
        "augment": {"crop_size": 64, "scale": (1, 1)},
    }


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A square that moves to the right over noise."""
    root, rng = tmp_path_factory.mktemp("street"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    (root / "classes.txt").write_text("road\ncar\n")
    for number in range(40):
        labels = np.zeros((64, 64), np.uint8)
        labels[20:36, number : number + 16] = 1
        image = rng.integers(100, 140, (64, 64, 3), dtype=np.uint8) + 80 * labels[..., None]
        Image.fromarray(image).save(root / "images" / f"{number:03d}.png")
        if number >= 3:
            Image.fromarray(labels).save(root / "masks" / f"{number:03d}.png")
    return root


def config_of(street, output, **settings):
    return FinetuneConfig.model_validate(
        {
            "output": output,
            "data": {"kind": "frames", "data_dir": street, "split_gap": 2, "frame_step": 2},
            "augment": {"crop_size": 64, "scale": (1, 1), "clip_photometric": "clip"},
            "loader": {"batch_size": 4, "workers": 0},
            "model": MEMORY,
            "train": {"steps": 3},
            "samples": 2,
            "runtime": {"cpu": True},
            **settings,
        }
    )


@pytest.fixture(scope="module")
def trained(street, tmp_path_factory):
    config = config_of(street, tmp_path_factory.mktemp("runs") / "memory")
    return config, finetune.run(config)


def test_a_model_with_memory_is_trained_and_scored_on_clips(trained):
    result = trained[1]
    assert result.metrics["dataset"]["images"] == 6
    segmenter, _ = open_model(result.folder)
    assert (segmenter.memory_frames, segmenter.memory_step) == (2, 2)
    assert memory_frames(CheckpointModelConfig(checkpoint=str(result.folder))) == 2
    assert len(list((result.folder / "predictions").glob("*-side.jpg"))) == 2


@pytest.mark.parametrize("protocol", [{"kind": "whole"}, {"kind": "slide", "crop_size": 48, "flip": True}])
def test_another_part_is_evaluated_on_clips(trained, tmp_path, protocol):
    config, result = trained
    settings = {"model": str(result.folder), "split": "test", "loader": {"workers": 0}, "worst": 1}
    found = evaluate.run(
        evaluate.EvaluateConfig.model_validate({**settings, "output": tmp_path / "out", "protocol": protocol})
    )
    assert len(list((tmp_path / "out" / "worst").iterdir())) == 1
    segmenter, space = open_model(result.folder)
    runtime, clips = RuntimeConfig(cpu=True).start(), config.data.open("test").clips(2)
    shown = TypeAdapter(ProtocolConfig).validate_python(protocol)
    batches = list(shown_batches(clips, config.loader, runtime))
    again = score(segmenter, batches, protocol=shown, count=counting(space), criterion=None, runtime=runtime)
    assert found["confusion"] == again.totals["confusion"].tolist()
    assert np.sum(found["confusion"]) == 5 * 64 * 64
    blind = batches[0].pixel_values.clone()
    blind[:, :-1] = 0  # a model that did not read the frames before would say the same
    views = [shown.views(segmenter.eval(), pixels) for pixels in (batches[0].pixel_values, blind)]
    assert not torch.equal(*(next(each.probabilities((64, 64)))[1] for each in views))


def test_a_model_with_memory_is_evaluated_with_another_number_of_frames_or_none(trained, tmp_path):
    settings = {"model": str(trained[1].folder), "loader": {"workers": 0}, "worst": 0, "verify_data": False}
    losses = []
    for count in (None, 2, 4, 0):
        more = {"memory_frames": count, "output": tmp_path / str(count), "split": "test"}
        losses.append(evaluate.run(evaluate.EvaluateConfig.model_validate({**settings, **more}))["loss"])
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    with pytest.raises(ValidationError, match="`memory_frames` has no effect on predictions"):
        evaluate.EvaluateConfig(predictions=tmp_path, memory_frames=1)


def test_hfseg_check_looks_at_clips(street, tmp_path):
    output = tmp_path / "check"
    result = check.run(config_of(street, tmp_path / "run"), output=output, samples=4)
    assert not result.problems
    assert (output / "samples.png").is_file()


def test_image_models_and_memory_models_without_memory_are_given_images(street, tmp_path):
    runtime = RuntimeConfig(cpu=True).start()
    for model in ({**MEMORY, "memory_frames": 0}, {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none"}):
        train, validation = open_data(config_of(street, tmp_path / "run", model=model, **no_clips(street)), runtime)
        assert train.memory_frames == validation.memory_frames == 0
    train, _ = open_data(config_of(street, tmp_path / "run"), runtime)
    assert train.memory_frames == 2


@pytest.mark.parametrize("key", ["data.frame_step", "augment.clip_photometric"])
def test_settings_of_clips_are_refused_for_a_model_of_images(street, tmp_path, key):
    images = {"model": {**MEMORY, "memory_frames": 0}, **no_clips(street)}
    part, name = key.split(".")
    images[part] = {**images[part], name: 2 if name == "frame_step" else "clip"}
    config = config_of(street, tmp_path / "run", **images)
    with pytest.raises(ConfigError, match=f"`{key}` has no effect: the model is shown single images"):
        finetune.run(config)
    assert [key in problem["message"] for problem in check.run(config).problems] == [True]


def test_members_of_a_study_share_settings_of_clips_and_those_of_images_go_without(street, tmp_path):
    base = config_of(street, tmp_path).model_dump(mode="json", include={"data", "augment"})
    members = {"memory": {"model": MEMORY}, "image": {"model": {**MEMORY, "memory_frames": 0}}}
    runs = {run.member: run for run in StudyConfig(base=base, members=members).runs(tmp_path)}
    found = {name: (run.config.data.frame_step, run.config.augment.clip_photometric) for name, run in runs.items()}
    assert found == {"memory": (2, "clip"), "image": (1, "frame")}
    check_comparable([*runs.values()], ignore_protocol=False)


def test_a_model_with_memory_needs_data_with_sequences(street, tmp_path):
    config = config_of(street, tmp_path / "run", data=DemoConfig(), augment=no_clips(street)["augment"])
    with pytest.raises(ConfigError, match="`demo` does not say which frames come before an image") as caught:
        finetune.run(config)
    assert "model.memory_frames=0" in caught.value.hint
    assert not config.output.exists()
    found = check.run(config)
    assert [problem["message"] for problem in found.problems] == [caught.value.message]
