"""The video study: its members are the published rows, and what is claimed of their costs holds, without training."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from attention_members import randomize
from test_models_backbones import TINY
from test_streaming import assert_equal, clip_wise, film, streamed
from torch import nn

from hfseg.cli.compare import RecipeOptions, _check_costs
from hfseg.config import differences
from hfseg.errors import ConfigError, RunFailed
from hfseg.models import FrameStream
from hfseg.models.attention import CrissCrossConfig, Extent
from hfseg.models.backbones.plan import plan
from hfseg.models.tmanet import TmanetForSemanticSegmentation
from hfseg.recipes import compare
from hfseg.recipes.compare.opened import untrained
from hfseg.recipes.run import FinetuneConfig

STUDY = Path(__file__).parents[1] / "hfseg" / "configs" / "video-study.yaml"
ROWS = {
    "tmanet": ("nonlocal", 4, False),
    "apnb": ("apnb", 4, False),
    "apnb+afnb": ("apnb+afnb", 4, False),
    "criss-cross-time": ("criss_cross", 4, None),
    "dual": ("dual", 4, False),
    "dual+apnb+afnb": ("dual+apnb+afnb", 4, False),
    "image-nonlocal": ("nonlocal_residual", 0, None),
    "image-psp": ("psp", 0, None),
    "apnb-4+current": ("apnb", 4, True),
    "apnb-3+current": ("apnb", 3, True),
    "apnb-2": ("apnb", 2, False),
    "asym-3": ("apnb+afnb", 3, False),
    "asym-2": ("apnb+afnb", 2, False),
}
"""Block, frames in memory, and whether the current one is read beside them, in the order of the published table."""
MEASURED = ["tmanet", "dual", "image-psp", "apnb-2"]
CROP = (80, 80)
"""Places of the last map at the study's crop of 640, stride 8; stage 3 has as many."""


def read(*sets, **flags):
    return compare.CompareConfig.load(yaml_path=STUDY, flags={"costs_only": True, **flags}, sets=sets)


def narrow():
    """Flags that leave of every member its kind: a tiny encoder, and few channels in its block."""
    runs = {run.member: run for run in read().study.runs(Path())}
    few = {"channels": 16, "key_channels": 4, "value_channels": 8}
    widths = {
        f"study.members.{name}.model.attention.{key}": value
        for name, run in runs.items()
        for key, value in few.items()
        if key in type(run.config.model.attention).model_fields
    }
    return {"study.base.model.overrides": TINY["resnet"], **widths}


@pytest.fixture(scope="module")
def tiny():
    """The members of the study, by name, as tiny models."""
    return {run.member: run.config for run in read(**narrow()).study.runs(Path())}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the command leaves after measuring a few of the tiny members, where CamVid is not."""
    output = tmp_path_factory.mktemp("costs") / "out"
    scale = {"study.scales.few.members": MEASURED[::-1], "study.scale": "few"}
    few = {"cost.rounds": 1, "cost.warm_up": 0, "cost.image_size": [32, 48], "runtime.cpu": True}
    flags = {**narrow(), **few, **scale, "study.base.data.data_dir": "nowhere", "output": str(output)}
    return compare.run(read(**flags)), output


def test_the_members_are_the_published_rows_in_their_order():
    runs = read().study.runs(Path())
    found = {
        run.member: (
            run.config.model.attention.kind,
            run.config.model.memory_frames,
            getattr(run.config.model.attention, "include_current", None) if run.config.model.memory_frames else None,
        )
        for run in runs
    }
    assert list(found.items()) == list(ROWS.items())
    assert runs[3].config.model.attention.mode == "separate"
    free = {"model.attention", "model.memory_frames", "output"}
    for run in runs[1:]:
        assert all(key.startswith(tuple(free)) for key in differences(runs[0].config, run.config)), run.member


def test_the_published_settings_are_those_of_the_recipe():
    recipe = FinetuneConfig.load(yaml_path=STUDY.with_name("tmanet-r18-camvid.yaml"))
    assert set(differences(recipe, read().study.runs(Path())[0].config)) <= {"output"}


def test_the_small_scale_has_a_quarter_of_the_size_and_needs_no_hub():
    runs = read("study.scale=small", "study.base.model.pretrained=none").study.runs(Path())
    assert [run.member for run in runs] == list(ROWS)
    for run in runs:
        assert (run.config.augment.crop, run.config.protocol.to_text()) == ((180, 240), "whole image, short side 180")
        assert (run.config.train.steps, run.config.model.pretrained) == (None, "none")


@pytest.fixture(scope="module")
def blocks():
    """The blocks of the study at their full widths, without numbers."""
    found, encoder = {}, plan("resnet-18", "none", overrides={}, drop_path=None)
    for run in read().study.runs(Path()):
        model, labels = run.config.model, run.config.data.labels()
        with torch.device("meta"):
            hf = TmanetForSemanticSegmentation(model.described(encoder.config, labels))
        assert hf.decode_head.classifier.out_channels == 12
        found[run.member] = hf.decode_head.block
    return found


def macs(block, name, *, streaming):
    return block.macs(Extent(CROP, CROP), frames=ROWS[name][1], streaming=streaming)


@pytest.mark.slow
def test_apnb_costs_less_than_non_local_attention_in_clips_and_in_streams(blocks):
    for streaming in (True, False):
        cost = {name: macs(block, name, streaming=streaming) for name, block in blocks.items()}
        for name in (name for name in cost if name.startswith("apnb-") or name == "apnb"):
            assert 3 * cost[name] < cost["tmanet"]
    assert cost["apnb"] < cost["image-nonlocal"]  # though it reads four frames, and that one itself


@pytest.mark.slow
def test_criss_cross_is_among_the_cheapest_blocks_of_a_stream_and_not_of_clips(blocks):
    four = [name for name, (_, frames, _) in ROWS.items() if frames == 4]
    stream = {name: macs(blocks[name], name, streaming=True) for name in four}
    clips = {name: macs(blocks[name], name, streaming=False) for name in four}
    assert sorted(stream, key=stream.get)[:3] == ["apnb", "criss-cross-time", "apnb-4+current"]
    assert stream["apnb-4+current"] < 1.05 * stream["apnb"]  # all three within a twentieth
    assert sorted(clips, key=clips.get)[:3] == ["apnb", "apnb-4+current", "criss-cross-time"]
    space = CrissCrossConfig(mode="space").build(512)
    assert macs(space, "image-psp", streaming=True) < 0.8 * min(stream.values())  # the cheapest; it reads no memory


@pytest.mark.many
@pytest.mark.parametrize("name", ROWS)
def test_a_stream_gives_what_the_clips_of_a_member_give(name, tiny):
    config = tiny[name]
    model = untrained(config, config.data.labels())
    randomize(model.hf.decode_head.block)
    nn.init.normal_(model.hf.decode_head.classifier.weight)
    frames = film(config.model.memory_frames + 2)
    assert_equal(streamed(FrameStream(model), frames), clip_wise(model, frames))


@pytest.mark.slow
def test_costs_are_measured_without_data_and_written_in_the_order_of_the_study(measured):
    result, output = measured
    assert [member["name"] for member in result.comparison["members"]] == MEASURED
    with (output / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["member"] for row in rows] == MEASURED
    for row in rows:
        assert row["mean_iou_percent"] == row["error"] == ""
        assert float(row["frames_per_s"]) > 0 < float(row["inference_memory_mib"])
        assert int(row["parameters"]) == int(row["trainable"]) > 1000
    assert {path.name for path in output.iterdir()} == {"compare.csv", "compare.html", "compare.json", "study.yaml"}
    assert json.loads((output / "compare.json").read_text())["cost"]["output"] == [32, 48]


@pytest.mark.slow
def test_a_frame_of_a_stream_costs_what_an_image_does_without_memory_and_less_than_a_clip_with_it(measured):
    for member in measured[0].comparison["members"]:
        frames = ROWS[member["name"]][1]
        assert member["memory_frames"] == frames
        assert member["frames_per_s"] == pytest.approx(1000 / member["frame_latency"]["median_ms"])
        if frames:
            assert (frames + 1) * 0.6 < member["macs"] / member["frame_macs"] <= frames + 1
        else:
            assert member["macs"] == member["frame_macs"]


@pytest.mark.slow
def test_what_was_measured_is_said_without_a_word_of_accuracy(measured):
    result, output = measured
    text = result.to_text()
    assert text.startswith("For a frame of a video of 32 x 48 pixels, ")
    assert re.search(
        r"^member +parameters +trained +MACs +frame MACs +latency +quartiles +frames/s +memory", text, re.M
    )
    assert "Random weights: nothing was trained" in text
    page = (output / "compare.html").read_text()
    assert "What 4 members cost" in page
    assert "mIoU" not in text
    assert "mIoU" not in page


def test_a_member_that_cannot_be_built_is_named_and_the_others_are_measured(tmp_path):
    members = {"plain": {}, "missing": {"model": {"kind": "checkpoint", "checkpoint": str(tmp_path / "nowhere")}}}
    tiny = {"kind": "tmanet", "backbone": "resnet", "overrides": TINY["resnet"], "memory_frames": 1}
    tiny["attention"] = {"kind": "psp", "channels": 8}
    costs = {"rounds": 1, "warm_up": 0, "image_size": 32}
    settings = {
        "study": {"base": {"model": tiny}, "members": members}, "cost": costs, "costs_only": True,
        "runtime": {"cpu": True}, "output": tmp_path / "out",
    }  # fmt: skip
    result = compare.run(compare.CompareConfig.model_validate(settings))
    assert result.has_failures
    assert re.search(r"failed: missing: model folder `.*nowhere` does not exist", result.to_text())
    settings["study"]["members"].pop("plain")
    with pytest.raises(RunFailed, match="no member could be measured: `missing`: "):
        compare.run(compare.CompareConfig.model_validate({**settings, "output": tmp_path / "none"}))


def test_what_costs_alone_cannot_use_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--costs trains and scores nothing: got --epochs, --seeds as well"):
        _check_costs(RecipeOptions(epochs=2), {"--seeds": "0,1", "--split": None})
    with pytest.raises(ConfigError, match="got finished runs as well"):
        read(runs=["a"])
    with pytest.raises(ConfigError, match="got `launcher` as well"):
        read(launcher="accelerate launch")
    with pytest.raises(ConfigError, match="begins nothing that could go on: got --resume"):
        compare.run(read(output=str(tmp_path)), resume=True)
