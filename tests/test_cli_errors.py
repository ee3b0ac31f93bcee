"""What a user gets for wrong input: exit code 2, one `error:`, a `hint:`, no traceback, and nothing written."""

import numpy as np
import pytest
from made_run import write_run
from PIL import Image

from hfseg.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        return end.value.code, capsys.readouterr().err

    return run


def folder(root, *, classes="background\nthing\n", value=1, size=(24, 20), masks=True):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
            image.save(root / "images" / part / f"{part}{number}.png")
            if masks:
                mask = np.full(size[::-1], value if number == 2 else 0, dtype=np.uint8)
                Image.fromarray(mask).save(root / "masks" / part / f"{part}{number}.png")
    (root / "classes.txt").write_text(classes)
    return str(root)


TINY = ["--backbone", "mit-b0", "--pretrained", "none", "--crop-size", "32", "--steps", "1"]
CASES = {
    "unknown flag": (["finetune", "--lrr", "1"], "no such option: --lrr", "did you mean `--lr`?"),
    "unknown command": (["finetun"], "no such command 'finetun'", "did you mean `finetune`?"),
    "unknown key": (["finetune", "--set", "optim.warmup_step=5"], "`optim.warmup_step` is not a known key (--set): got 5",
                    "did you mean `optim.warmup_steps`?"),
    "value of the wrong kind": (["finetune", "--set", "train.accumulation=much"], "`train.accumulation` (--set): expected a valid integer", ""),
    "seed beyond 63 bits": (["finetune", "--seed", "9223372036854775808"], "`seed` (--seed): expected less than 9223372036854775808", ""),
    "missing config": (["finetune", "--config", "none.yaml"], "config `none.yaml` cannot be read: No such file", "YAML"),
    "missing folder": (["finetune", "--dataset", "folder", "--data-dir", "nowhere"], "nowhere", "hint:"),
    "unknown data set": (["finetune", "--dataset", "folders"], "`data.kind` has no such kind", "did you mean `folder`?"),
    "unknown encoder": (["finetune", "--backbone", "convnextv3"], "convnextv3", "convnextv2"),
    "decoder that loses a recipe's encoder": (
        ["finetune", "--config", "upernet-dinat-mini-ade20k", "--decoder", "fusion"],
        "no encoder is named: got --config upernet-dinat-mini-ade20k",
        "give --backbone too",
    ),
    "unknown decoder": (["finetune", "--decoder", "upernett"], "`model.kind` has no such kind", "did you mean `upernet`?"),
    "unknown loss": (["finetune", "--loss", "ce+dise"], "dise", "dice"),
    "weights that cannot be had": (["finetune", "--backbone", "convnextv2"], "facebook/convnextv2-tiny", "hf download"),
    "model that cannot be had": (["finetune", "--model", "nvidia/segformer-b0-finetuned-ade-512-512"], "nvidia/segformer-b0", "hint:"),
    "model and encoder": (["finetune", "--model", "x/y", "--backbone", "swin"], "--model is a whole model: got --backbone as well", "leave"),
    "epochs and steps": (["finetune", "--epochs", "2", "--steps", "3"], "--epochs and --steps are both given", "one of them"),
    "pattern that freezes nothing": (["finetune", *TINY, "--freeze", "backbon"], "backbon", "backbone"),
    "pattern that freezes nothing, of two": (
        ["finetune", *TINY, "--freeze", "backbon", "--freeze", "backbone.stages.0"],
        "`backbon`",
        "backbone",
    ),
    "crop size": (["finetune", "--crop-size", "big"], "--crop-size `big` is not a size", "360x480"),
    "precision": (["finetune", "--precision", "fp8"], "`runtime.precision` (--precision)", ""),
    "nothing to resume": (["finetune", "--resume", "--output", "none"], "there is no run to resume in `none`", "--resume"),
    "evaluate nothing": (["evaluate", "nowhere"], "nowhere", "hint:"),
    "precision of evaluate": (["evaluate", "runs/x", "--set", "runtime.precision=bf16"],
                              "`runtime.precision` is not a known key (--set): got 'bf16'", "known keys of `runtime`: cpu, num_processes"),
    "compilation of predict": (["predict", "runs/x", "x.jpg", "--set", "runtime.compile=true"], "`runtime.compile` is not a known key", "cpu, num_processes"),
    "strength without photometric": (["finetune", "--set", "augment.photometric=false", "--set", "augment.hue=5"],
                                     "`hue` has no effect with `photometric: false`: got 5", "leave out"),
    "setting of another optimizer": (["finetune", "--set", "optim.name=sgd", "--set", "optim.betas=[0.5,0.9]"],
                                     "`betas` has no effect on sgd: got (0.5, 0.9)", "leave it out"),
    "predict nothing": (["predict", "nowhere", "none.jpg"], "input `none.jpg` stands for no image", "endings"),
    "class weights that are not there": (["finetune", *TINY, "--set", "loss.class_weights=none.yaml"], "class weights `none.yaml` cannot be read", ""),
    "report of nothing": (["report", "nowhere"], "nowhere", ""),
    "batch larger than the data": (["finetune", *TINY, "--dataset", "demo", "--batch-size", "100"], "48 training samples", "`loader.batch_size`"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_told_in_a_sentence_with_a_hint(run, tmp_path, name):
    arguments, message, hint = CASES[name]
    code, said = run(*arguments)
    assert code == 2, said
    assert said.startswith("error: ") or "\nerror: " in said, said
    assert message in said
    assert hint in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 7}, "7 in 480 pixels"),
        ({"size": (24, 10)}, "differ in size"),
        ({"masks": False}, "no mask"),
    ],
)
def test_bad_data_is_named_before_any_step(run, tmp_path, changes, message):
    data = folder(tmp_path / "data", **changes)
    code, said = run("finetune", "--data-dir", data, *TINY, "--batch-size", "2", "--output", "run")
    assert code == 2, said
    assert message in said
    assert "train" in said
    assert not (tmp_path / "run").exists()


def test_an_output_that_exists_is_never_overwritten(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("kept")
    code, said = run("finetune", *TINY, "--output", "run")
    assert (code, (tmp_path / "run" / "precious").read_text()) == (2, "kept")
    assert "output `run` exists already" in said
    assert "--resume" in said


def test_a_file_that_the_system_refuses_is_named(run, tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "plots").write_text("in the way")
    code, said = run("report", "run")
    assert (code, "error: `run/plots`: File exists" in said, "unexpected" in said) == (1, True, False), said


def test_debug_shows_the_traceback(run):
    code, said = run("finetune", "--config", "none.yaml", "--debug")
    assert code == 2
    assert "Traceback" in said


def test_all_problems_are_told_at_once(run):
    code, said = run("finetune", "--lr", "-1", "--set", "loader.batch_sizes=3", "--set", "train.step=2")
    assert code == 2
    assert "3 problems in the configuration" in said
    for part in ("`optim.lr` (--lr)", "`loader.batch_sizes`", "`train.step`", "`loader.batch_size`", "`train.steps`"):
        assert part in said


def test_the_demo_images_bring_their_settings_but_not_their_random_weights(run):
    code, said = run("finetune", "--backbone", "mit-b1", "--cpu")
    assert code == 2
    assert "`nvidia/mit-b1` is no local folder and not in the Hub's local cache" in said
