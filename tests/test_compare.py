"""`hfseg compare`: what a study is made of, what is refused, and what a comparison of finished runs says."""

import csv
import json
import re
from pathlib import Path

import pytest

from hfseg.cli.compare import MemberOptions, RecipeOptions, _base, _members, _settings, _slug
from hfseg.cli.options import DataOptions, ProtocolOptions, RunOptions
from hfseg.config import differences
from hfseg.errors import CheckpointError, ConfigError, DataError, RunFailed
from hfseg.recipes import compare, finetune
from hfseg.recipes.compare.study import StudyConfig, check_comparable, differing_settings, runs_in
from hfseg.recipes.run import FinetuneConfig
from hfseg.viz import study_text
from hfseg.viz.study_figures import accuracy_against, pareto

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SIZES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16}
DEMO = {"kind": "segformer", "backbone": "mit-b0", "pretrained": "none", "overrides": SIZES}
TINY = {
    "augment": {"crop_size": 64},
    "loader": {"batch_size": 4, "workers": 1},
    "model": DEMO,
    "train": {"epochs": None, "steps": 2},
    "optim": {"lr": 1e-3, "warmup_steps": 0},
    "samples": 0,
    "verify_data": False,
    "runtime": {"cpu": True},
}


def study(**settings):
    return StudyConfig.model_validate({"base": TINY, "members": {"plain": {}}} | settings)


def planned(tmp_path, **settings):
    return study(**settings).runs(tmp_path)


# -- what a study is made of ------------------------------------------------------------------------------------------


def test_members_are_those_named_and_every_combination_of_the_axes_one_seed_after_the_other(tmp_path):
    axes = {
        "model": {"small": {}, "large": {"model.backbone": "mit-b1"}},
        "loss": {"ce": {}, "dice": {"loss.terms": "dice"}},
    }
    runs = planned(tmp_path, axes=axes, seeds=[3, 5])
    names = ["plain", "small-ce", "small-dice", "large-ce", "large-dice"]
    assert [run.name for run in runs] == [f"{name}-{seed}" for seed in (3, 5) for name in names]
    last = runs[-1]
    assert (last.config.model.backbone, last.config.loss.terms, last.config.seed) == ("mit-b1", "dice", 5)
    assert last.config.output == last.folder == tmp_path / "large-dice-5"


def test_a_member_lies_over_the_scale_and_the_scale_over_the_base(tmp_path):
    members = {"plain": {}, "long": {"train": {"steps": 9}}, "left-out": {}}
    scales = {"small": {"base": {"train.steps": 1, "optim": {"lr": 0.5}}, "seeds": [7], "members": ["plain", "long"]}}
    runs = {run.member: run for run in planned(tmp_path, members=members, scales=scales, scale="small", seeds=[0, 1])}
    assert {name: run.config.train.steps for name, run in runs.items()} == {"plain": 1, "long": 9}
    assert {run.seed for run in runs.values()} == {7}
    assert runs["plain"].config.optim.lr == 0.5
    assert planned(tmp_path, members=members, scales=scales)[0].config.train.steps == 2


def test_a_member_adds_to_the_settings_below_it_and_does_not_replace_them(tmp_path):
    config = planned(tmp_path, members={"soft": {"optim": {"weight_decay": 0.5}, "optim.power": 2.0}})[0].config
    assert (config.optim.lr, config.optim.weight_decay, config.optim.power) == (1e-3, 0.5, 2.0)


def test_a_member_of_another_kind_keeps_nothing_of_the_kind_below(tmp_path):
    members = {"upernet": {"model": {"kind": "upernet", "backbone": "convnextv2-atto", "pretrained": "none"}}}
    model = planned(tmp_path, members=members)[0].config.model
    assert (model.kind, model.backbone, model.auxiliary) == ("upernet", "convnextv2-atto", True)


def test_settings_come_through_as_they_are_written(tmp_path):
    written = {
        "optim.lr": 1e-5,
        "loss": {"terms": "ce+0.5*dice"},
        "model.overrides": {"depths": [2, 1, 1, 1]},
        "freeze.modules": ["backbone"],
    }
    config = planned(tmp_path, members={"odd": written})[0].config
    assert (config.optim.lr, config.loss.terms, config.freeze.modules) == (1e-5, "ce+0.5*dice", ("backbone",))
    assert config.model.overrides == {**SIZES, "depths": [2, 1, 1, 1]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "tiny", "scales": {"small": {}}}, "there is no scale `tiny`"),
        ({"axes": {"a": {"plain": {}}}}, "`plain` is both a member and a combination"),
        ({"scale": "s", "scales": {"s": {"members": ["other"]}}}, "has a member `other`, which the study has not"),
        ({"members": {"v1.5": {}}}, "String should match pattern"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        study(**settings)


def test_a_setting_that_does_not_exist_names_its_member(tmp_path):
    with pytest.raises(ConfigError, match=r"`optim.lrr` is not a known key \(member `odd`\): got 1") as caught:
        planned(tmp_path, members={"odd": {"optim.lrr": 1}})
    assert caught.value.hint == "did you mean `optim.lr`?"


def test_members_of_the_packaged_study_of_losses_differ_in_model_loss_and_seed_only(tmp_path):
    flags = {"study.base.data.data_dir": "camvid"}
    path = ROOT / "hfseg" / "configs" / "losses-study.yaml"
    config = compare.CompareConfig.load(yaml_path=path, flags=flags)
    runs = {run.name: run.config for run in config.study.runs(tmp_path)}
    losses = ("ce", "weighted-ce", "focal", "dice", "ce-dice")
    assert list(runs) == [
        f"{model}-{loss}-{seed}" for seed in range(3) for model in ("mobilenet", "segformer-b0") for loss in losses
    ]
    first = runs["mobilenet-ce-0"]
    for run in runs.values():
        found = {key.partition(".")[0] for key in differences(first, run)}
        assert found <= {"output", "seed", "model", "loss"}
    assert (config.split, config.model) == ("test", "last")


def test_the_small_scale_is_one_setting_away():
    path = ROOT / "hfseg" / "configs" / "losses-study.yaml"
    flags = {"study.base.data.data_dir": "camvid"}
    config = compare.CompareConfig.load(yaml_path=path, flags=flags, sets=["study.scale=small"])
    runs = config.study.runs(Path("out"))
    assert len(runs) == 10
    assert {run.config.train.epochs for run in runs} == {1}


def test_what_is_asked_for_beside_a_scale_holds_at_it():
    path = ROOT / "hfseg" / "configs" / "losses-study.yaml"
    shared = {"base.data.data_dir": "camvid", "base.train.epochs": 3, "seeds": [4, 5]}
    for scale in ("small", "full"):
        runs = _settings(path, {}, shared, [f"study.scale={scale}"]).study.runs(Path("out"))
        assert {(run.seed, run.config.train.epochs) for run in runs} == {(4, 3), (5, 3)}


def test_encoders_and_heads_become_members():
    members = _members(MemberOptions(None, "mit-b0,convnextv2-atto", "upernet,fusion", "nvidia/a.b"), is_free=True)
    assert list(members) == [
        "upernet-mit-b0",
        "fusion-mit-b0",
        "upernet-convnextv2-atto",
        "fusion-convnextv2-atto",
        "a_b",
    ]
    assert members["fusion-mit-b0"] == {"model.pretrained": None, "model.kind": "fusion", "model.backbone": "mit-b0"}
    assert _members(MemberOptions(backbones="mit-b0,nat-mini", pretrained="none"), is_free=True)["nat-mini"] == {
        "model.kind": "upernet", "model.backbone": "nat-mini", "model.pretrained": "none",
    }  # fmt: skip
    assert _slug("/models/net_1.0/") == "net_1_0"
    with pytest.raises(ConfigError, match="members need names of their own"):
        _members(MemberOptions(models="one/net,two/net"), is_free=True)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_encoders_beside_a_study_are_trained_by_its_own_base():
    given = (RecipeOptions(), DataOptions(), ProtocolOptions(), RunOptions())
    assert _base(*given, path=None, trains=True, has_members=True)["data"] == {"kind": "demo"}
    assert _base(*given, path=Path("study.yaml"), trains=True, has_members=True) == {}


def test_members_on_other_data_or_under_another_protocol_are_refused(tmp_path):
    for settings, message in (
        ({"data.classes": "size"}, "`data.classes` is 'coin' and 'size'"),
        ({"augment.short_side": 96}, "`protocol.short_side` is None and 96"),
    ):
        runs = planned(tmp_path, members={"plain": {}, "other": settings})
        with pytest.raises(DataError, match=message):
            check_comparable(runs, ignore_protocol=False)
    check_comparable(runs, ignore_protocol=True)
    rare = planned(tmp_path, members={"plain": {}, "rare": {"data.rare_class_crop": True}})
    check_comparable(rare, ignore_protocol=False)


def test_data_that_is_not_there_stops_a_study_before_its_first_member(tmp_path):
    base = {**TINY, "data": {"kind": "camvid", "data_dir": str(tmp_path / "nowhere")}}
    config = compare.CompareConfig(study=study(base=base), output=tmp_path / "out")
    with pytest.raises(DataError, match="no CamVid in"):
        compare.run(config)
    assert not (tmp_path / "out").exists()


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ConfigError, match="there is nothing to compare"):
        compare.CompareConfig.load()
    with pytest.raises(ConfigError, match="`launcher` has no effect on finished runs"):
        compare.CompareConfig.load(flags={"runs": ["a"], "launcher": "accelerate launch"})


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no run: `config.yaml` is missing"):
        runs_in((tmp_path,))


# -- finished runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one recipe, and another recipe, after two steps each on the demo images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {
        "first-0": {}, "first-1": {"seed": 1}, "dice-0": {"loss": {"terms": "dice"}},
    }.items():  # fmt: skip
        finetune.run(FinetuneConfig.model_validate({**TINY, **settings, "output": folder / name}))
    return folder


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared") / "study"
    config = settings_of(runs, output)
    return config, compare.run(config)


def settings_of(runs, output, *names, **others):
    folders = [runs / name for name in names or ("first-0", "first-1", "dice-0")]
    few = {
        "cost": {"rounds": 2, "warm_up": 1},
        "pictures": 2,
        "bootstrap": {"resamples": 500},
        "runtime": {"cpu": True},
    }
    return compare.CompareConfig.model_validate({**few, "runs": folders, "output": output, **others})


def test_runs_that_differ_in_the_seed_alone_are_one_member(compared):
    members = {member["name"]: member for member in compared[1].comparison["members"]}
    assert {name: member["seeds"] for name, member in members.items()} == {"first": [0, 1], "dice-0": [0]}
    ious = [run["mean_iou"] for run in members["first"]["runs"]]
    assert members["first"]["mean_iou"] == pytest.approx(sum(ious) / 2)
    assert members["first"]["settings"] == {"loss.terms": "ce"}


def test_scores_are_those_of_the_runs_themselves(compared, runs):
    member = next(m for m in compared[1].comparison["members"] if m["name"] == "dice-0")
    metrics = json.loads((runs / "dice-0" / "metrics.json").read_text())
    assert member["mean_iou"] == pytest.approx(metrics["mean_iou"])
    assert member["per_category_iou"] == pytest.approx([row["iou"] for row in metrics["classes"]])
    assert not (compared[0].output / "scores").exists()  # nothing was evaluated again


def test_each_member_says_what_it_costs_and_how_that_was_found(compared):
    comparison = compared[1].comparison
    for member in comparison["members"]:
        assert member["macs"] > 1e6
        assert member["uncounted"] == []
        assert 0 < member["latency"]["lower_ms"] <= member["latency"]["median_ms"] <= member["latency"]["upper_ms"]
        assert member["memory_mb"] > 4 * member["runs"][0]["parameters"] / 2**20
        assert member["runs"][0]["trainable"] == member["runs"][0]["parameters"] > 1e4
        assert "joules" not in member
    macs = {member["macs"] for member in comparison["members"]}
    assert len(macs) == 1  # one architecture
    text = compared[1].to_text()
    for words in (
        "float32",
        "batch 1",
        "160 x 160 pixels in",
        "2 rounds",
        "after 1 to warm up",
        "torch.utils.flop_counter",
    ):
        assert words in text
    assert "energy: not reported by this device" in text


def test_the_answer_comes_first_and_says_on_what_it_rests(compared):
    text = compared[1].to_text()
    first = text.splitlines()[0]
    assert re.match(r"(first|dice-0) has the highest mIoU on the 12 images of demo, validation: \d", first)
    assert "chosen on these images, which flatters all of them" in text
    assert "Holm's correction for 1 pair" in text


def test_the_files_say_the_same_as_the_page(compared):
    output = compared[0].output
    with (output / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    comparison = json.loads((output / "compare.json").read_text())
    best = study_text.ranked(comparison)[0]
    assert rows[0]["member"] == best["name"]
    assert float(rows[0]["mean_iou_percent"]) == pytest.approx(100 * best["mean_iou"], abs=1e-4)
    assert len((output / "pairs.csv").read_text().splitlines()) == 2
    assert (output / "classes.csv").read_text().startswith("class,label_pixels,winner,is_clear,")
    assert {path.name for path in (output / "plots").iterdir()} == {"latency.png", "macs.png"}


def test_the_page_stands_alone_and_shows_the_same_images_for_all(compared):
    page = compared[1].page.read_text()
    assert len(page) < 5_000_000
    assert study_text.heading(compared[1].comparison) in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert len(re.findall(r'<img src="data:image/', page)) == 2 * 4
    for caption in ("image", "labels", "first", "dice-0"):
        assert page.count(f"<figcaption>{caption}</figcaption>") == 2


def test_a_comparison_is_not_overwritten_and_goes_on_with_resume(compared):
    config, result = compared
    with pytest.raises(CheckpointError, match="exists already"):
        compare.run(config)
    again = compare.run(config, resume=True)
    assert again.comparison["pairs"] == result.comparison["pairs"]


def test_an_unfinished_run_is_named_and_does_not_lose_the_others(runs, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    text = (runs / "first-0" / "config.yaml").read_text().replace("mit-b0", "mit-b1")
    (begun / "config.yaml").write_text(text)
    result = compare.run(settings_of(runs, tmp_path / "out", "first-0", begun))
    assert result.has_failures
    assert "failed: begun: seed 0: run" in result.to_text()
    assert "is not finished" in result.page.read_text()
    with pytest.raises(RunFailed, match="no member is left to compare"):
        compare.run(settings_of(runs, tmp_path / "none", begun))


def test_the_same_run_twice_is_refused(runs, tmp_path):
    with pytest.raises(DataError, match="was given twice"):
        runs_in((runs / "first-0", runs / "first-0"))


def test_settings_that_all_share_are_not_listed(tmp_path):
    found = differing_settings(planned(tmp_path, members={"a": {}, "b": {"optim.lr": 0.1}}))
    assert found == {"a": {"optim.lr": 0.001}, "b": {"optim.lr": 0.1}}


# -- words and figures ------------------------------------------------------------------------------------------------


def member(name, iou, **others):
    low_high = {
        "interval": [iou - 0.01, iou + 0.01],
        "seeds": [0],
        "spread": None,
        "overall_accuracy": 0.9,
        "runs": [{}],
    }
    return {"name": name, "mean_iou": iou, "error": None, **low_high, **others}


def comparison_of(verdicts, ious):
    return {
        "members": [member(name, iou) for name, iou in ious.items()],
        "pairs": [
            {
                "one": one,
                "other": other,
                "verdict": verdict,
                "difference": ious[one] - ious[other],
                "interval": [0.0, 0.1],
            }
            for (one, other), verdict in verdicts.items()
        ],
        "data": {"kind": "camvid", "images": 233},
        "split": "test",
    }


def test_a_leader_that_is_not_distinguishable_is_no_winner():
    tied, better = "not distinguishable", "better"
    ious = {"c": 0.3, "a": 0.5, "b": 0.49}
    found = comparison_of({("a", "b"): tied, ("c", "a"): "worse", ("b", "c"): better}, ious)
    assert study_text.heading(found) == "No single best: a leads"
    assert study_text.answer(found) == (
        "a has the highest mIoU on the 233 images of camvid, test: 50.00 % (one seed), but it is not distinguishable "
        "from b; it is better than c."
    )
    found = comparison_of({("a", "b"): better, ("c", "a"): "worse", ("b", "c"): better}, ious)
    assert study_text.heading(found) == "a is best"
    assert study_text.answer(found).endswith("better than b and c, by +1.00 points than the next (+0.00 to +10.00).")


def test_a_pair_is_read_in_both_directions():
    found = comparison_of({("a", "b"): "better"}, {"a": 0.5, "b": 0.4})
    assert study_text.verdict(found, "a", "b")[0] == "better"
    word, difference, interval = study_text.verdict(found, "b", "a")
    assert (word, difference, interval) == ("worse", pytest.approx(-0.1), [-0.1, -0.0])


def test_the_frontier_holds_what_nothing_is_cheaper_and_better_than():
    members = [member(name, iou) for name, iou in (("a", 0.5), ("b", 0.6), ("c", 0.4), ("d", 0.6))]
    assert [members[place]["name"] for place in pareto(members, [1.0, 3.0, 2.0, 4.0])] == ["a", "b"]
    figure = accuracy_against(members, [1.0, 30.0, 2.0, 4.0], leaders=["b"], what="ms")
    assert figure.get_suptitle().replace("\n", " ") == "None is both cheaper and better than a, d"
    assert figure.axes[0].get_xscale() == "log"
