"""What a student learns from a teacher: the terms against plain loops, the cache, and short runs."""

import json
import math
from itertools import product

import pytest
import torch
from launches import assert_close_weights, train
from painted import painted
from safetensors.torch import load_file
from test_models_segmenter import LABELS, MIT
from torch.nn import functional as F

from hfseg.engine.checkpoint import load_newest
from hfseg.engine.logit_cache import LogitCache, compact, pixel_key, restored
from hfseg.engine.loop import fit
from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.stopwatch import Stopwatch
from hfseg.errors import CheckpointError, ConfigError, DataError
from hfseg.labels import LabelSpace
from hfseg.losses import DistillConfig
from hfseg.losses.distillation import channel_wise, feature_distance, pairwise, soft_cross_entropy
from hfseg.models import (
    CheckpointModelConfig,
    SegformerModelConfig,
    Tapped,
    TmanetModelConfig,
    UperNetModelConfig,
    fingerprint,
    open_model,
    save_model,
)
from hfseg.models.pixels import Pixels
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.teacher import Teacher, make_objective, open_teacher
from hfseg.recipes.training import batches_per_epoch, build_model, make_task, open_data
from hfseg.values import Batch

CONVNEXT = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
TERMS = {"kd": soft_cross_entropy, "cwd": channel_wise, "feature": feature_distance, "pairwise": pairwise}
SETTINGS = {"kd": {"temperature": 2.0}, "cwd": {"temperature": 3.0}, "feature": {}, "pairwise": {"nodes": 2}}


def case(*, dtype=torch.float64, ignored=0.4, seed=0, grid=(4, 6), theirs=(3, 5)):
    """Give student and teacher on grids of their own, and labels of 2 x 2 pixels for each cell of the student's."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(2, 3, *grid, generator=generator, dtype=dtype).mul_(3).requires_grad_()
    teacher = torch.randn(2, 3, *theirs, generator=generator, dtype=dtype).mul_(3)
    labels = torch.randint(0, 3, (2, 2 * grid[0], 2 * grid[1]), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    labels[:, :2, :2] = 255  # a whole cell
    return student, teacher, labels


def cells(student, teacher, labels):
    """Give (image, row, column, share, student's numbers, teacher's numbers) of every cell, in plain Python."""
    theirs = F.interpolate(teacher, size=student.shape[-2:], mode="bilinear", align_corners=False)
    for b, y, x in product(*(range(student.shape[place]) for place in (0, 2, 3))):
        below = labels[b, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten().tolist()
        share = sum(label != 255 for label in below) / 4
        yield b, y, x, share, student[b, :, y, x].tolist(), theirs[b, :, y, x].tolist()


def softmax(scores, weights=None):
    powers = [math.exp(s) * w for s, w in zip(scores, weights or [1] * len(scores), strict=True)]
    return [power / sum(powers) for power in powers]


def divergence(ours, theirs):
    return sum(t * math.log(t / s) for s, t in zip(ours, theirs, strict=True) if t > 0)


def plain_kd(student, teacher, labels):
    total = weight = 0.0
    for _, _, _, share, ours, theirs in cells(student, teacher, labels):
        total += share * 4 * divergence(softmax([s / 2 for s in ours]), softmax([t / 2 for t in theirs]))
        weight += share
    return total / weight


def plain_cwd(student, teacher, labels):
    values = []
    for b in range(2):
        here = [cell for cell in cells(student, teacher, labels) if cell[0] == b]
        shares = [cell[3] for cell in here]
        if not any(shares):
            continue
        channels = []
        for c in range(3):
            ours, theirs = (softmax([cell[who][c] / 3 for cell in here], shares) for who in (4, 5))
            channels.append(9 * divergence(ours, theirs))
        values.append(sum(channels) / 3)
    return sum(values) / len(values)


def plain_feature(student, teacher, labels):
    total = weight = 0.0
    for _, _, _, share, ours, theirs in cells(student, teacher, labels):
        total += share * sum((s - t) ** 2 for s, t in zip(ours, theirs, strict=True)) / 3
        weight += share
    return total / weight


def cosine(one, other):
    lengths = math.sqrt(sum(v * v for v in one)) * math.sqrt(sum(v * v for v in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def plain_pairwise(student, teacher, labels):
    """Nodes are 2 x 3 cells here."""
    total = weight = 0.0
    for b in range(2):
        nodes = {}
        for _, y, x, share, ours, theirs in (cell for cell in cells(student, teacher, labels) if cell[0] == b):
            count, mine, its = nodes.get((y // 2, x // 3), (0.0, [0.0] * 3, [0.0] * 3))
            mine = [m + share * s for m, s in zip(mine, ours, strict=True)]
            its = [i + share * t for i, t in zip(its, theirs, strict=True)]
            nodes[y // 2, x // 3] = (count + share / 6, mine, its)
        for one, other in product(nodes.values(), repeat=2):
            if not one[0] * other[0]:
                continue
            pair = one[0] * other[0]
            total += pair * (cosine(one[1], other[1]) - cosine(one[2], other[2])) ** 2
            weight += pair
    return total / weight


ORACLES = {"kd": plain_kd, "cwd": plain_cwd, "feature": plain_feature, "pairwise": plain_pairwise}


def term(name, student, teacher, labels):
    return TERMS[name](student, teacher, labels, ignore_index=255, **SETTINGS[name])


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_term_equals_its_definition(name, seed):
    student, teacher, labels = case(seed=seed)
    if seed == 2:
        labels[1] = 255  # an image that says nothing
    found = term(name, student, teacher, labels).item()
    assert found == pytest.approx(ORACLES[name](student.detach(), teacher, labels), rel=1e-10)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_the_definition(name):
    student, teacher, labels = case()
    assert torch.autograd.gradcheck(lambda x: term(name, x, teacher, labels), student)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_that_is_all_ignored_gives_zero_and_no_gradient(name, dtype):
    student, teacher, labels = case(dtype=dtype, ignored=1.1)
    loss = term(name, student, teacher, labels)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("name", TERMS)
def test_who_agrees_with_the_teacher_has_nothing_to_learn(name):
    student, _, labels = case()
    loss = term(name, student, student.detach().clone(), labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert float(student.grad.abs().max()) < 1e-14


@pytest.mark.parametrize("name", TERMS)
def test_cells_without_labels_do_not_count(name):
    student, _, labels = case()
    teacher = torch.randn(student.shape, dtype=torch.float64)
    before = term(name, student, teacher, labels)
    before.backward()
    assert not student.grad[:, :, 0, 0].any()
    other = teacher.clone()
    other[:, :, 0, 0] = 1e3
    assert term(name, student, other, labels).item() == before.item()


def test_widths_may_differ_where_likeness_is_compared():
    student, teacher, labels = case()
    wide = torch.cat([teacher, -teacher], 1)  # twice the numbers, the same angles
    assert term("pairwise", student, wide, labels).item() == pytest.approx(
        term("pairwise", student, teacher, labels).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kd": 2.0}, "`kd` has no effect without a teacher"),
        ({"teacher": "x", "kd": 0}, "teaches nothing"),
        ({"teacher": "x", "cwd_temperature": 2}, "`cwd_temperature` has no effect with `cwd: 0`"),
        ({"teacher": "x", "cache_classes": 2}, "`cache_classes` has no effect without `cache`"),
        ({"teacher": "x", "cache": "c", "pairwise": 1}, "`cache` holds logits: `pairwise` compares features"),
        ({"teacher": "x", "cache": "c", "cwd": 1, "cache_classes": 2}, "`cwd` compares every class"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillConfig(**settings)


def upernet(space=LABELS, **options):
    settings = {"backbone": "convnext", "overrides": CONVNEXT, "hidden_size": 24, "auxiliary_channels": 8, **options}
    return UperNetModelConfig(pretrained="none", **settings).build(space)


def segformer(space=LABELS):
    return SegformerModelConfig(pretrained="none", overrides=MIT).build(space)


@pytest.mark.parametrize("build", [segformer, upernet])
def test_features_are_what_the_main_classifier_reads(build):
    segmenter = build().eval()
    tapped = Tapped(segmenter, taps=True, width=5, seed=3)
    seen = tapped(torch.rand(2, 3, 64, 64))
    classifier = segmenter.hf.get_submodule(tapped.tap)
    torch.testing.assert_close(classifier(seen.features), seen.output.logits)
    torch.testing.assert_close(tapped.projection(seen.features), seen.projected)
    assert seen.projected.shape[1] == 5
    assert torch.equal(tapped.projection.weight, Tapped(build(), taps=True, width=5, seed=3).projection.weight)
    assert tapped.depths(by="stage").keys() == dict(tapped.named_parameters()).keys()


def test_the_fingerprint_is_of_weights_settings_and_normalization(tmp_path):
    segmenter = segformer()
    for name in ("one", "other"):
        save_model(segmenter, LABELS, tmp_path / name)
    models = [open_model(tmp_path / name)[0] for name in ("one", "other", "other", "other")]
    assert fingerprint(models[0]) == fingerprint(models[1])
    with torch.no_grad():
        models[1].hf.decode_head.batch_norm.running_mean[0] += 1e-3
    models[2].pixels = Pixels(mean=(0.5, 0.5, 0.5))
    models[3].hf.config.hidden_act = "relu"
    assert len({fingerprint(model) for model in models}) == 4


def runtime():
    return RuntimeConfig(cpu=True).start()


def teacher_of(segmenter, **options):
    return Teacher("large", Tapped(segmenter, **options).eval(), "f", runtime())


def test_each_model_normalizes_as_it_was_made_to_and_an_image_model_sees_the_current_frame():
    segmenter, clip = segformer(), torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    teacher = teacher_of(segmenter)
    told = teacher(clip).output.logits
    with torch.no_grad():
        wanted = segmenter.hf(segmenter.normalize(clip[:, -1])).logits
    assert torch.equal(told, wanted)
    segmenter.mean.fill_(0.1)
    assert not torch.allclose(teacher(clip).output.logits, wanted)


RESNET = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "embedding_size": 8}


def tmanet(memory_frames=2):
    attention = {"kind": "nonlocal", "key_channels": 4, "value_channels": 8, "channels": 16}
    settings = {"overrides": RESNET, "auxiliary_channels": 8, "attention": attention, "memory_frames": memory_frames}
    return TmanetModelConfig(backbone="resnet", pretrained="none", **settings).build(LABELS)


@pytest.mark.parametrize("build", [tmanet, upernet], ids=["memory", "images"])
def test_a_student_with_memory_is_taught_on_clips(build):
    teacher = teacher_of(build(), taps=True)
    distill = DistillConfig(teacher="large", cwd=1, feature=1, pairwise=1)
    config = FinetuneConfig(distill=distill, runtime={"cpu": True})
    loss = config.loss.build(ignore_index=255)
    objective = make_objective(config, tmanet(), loss, teacher, teacher.runtime)
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (2, 64, 64), dtype=torch.uint8, generator=generator)
    found = objective.loss_fn(objective.model.train(), Batch(clip, labels, ("a", "b")))
    found["total"].backward()
    assert all(value.isfinite() for value in found.values())
    assert objective.model.projection.weight.grad.isfinite().all()
    other = clip.clone()
    other[:, 0] = 255 - other[:, 0]  # the oldest frame
    same = torch.equal(teacher(clip).output.logits, teacher(other).output.logits)
    assert same == (build is upernet)


def logits_like_a_model(num_labels=150):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, num_labels, 4, 4, generator=generator).mul_(5)
    return F.interpolate(coarse, size=(16, 16), mode="bilinear")[0] + torch.randn(
        num_labels, 16, 16, generator=generator
    )


@pytest.mark.parametrize(("keep", "nats"), [(None, 1e-3), (20, 0.1)])
def test_kept_logits_are_close_and_compact(keep, nats):
    logits = logits_like_a_model()
    parts = compact(logits, keep=keep)
    found = restored(parts)
    assert torch.equal(found.argmax(0), logits.argmax(0))
    apart = F.kl_div(found.log_softmax(0), logits.log_softmax(0), log_target=True, reduction="none").sum(0).mean()
    assert 0 <= float(apart) < nats
    size = sum(part.numel() * part.element_size() for part in parts.values())
    assert size / 256 == pytest.approx((150 if keep is None else 2 * keep + 1) + 2, abs=0.1)


def test_what_is_left_of_the_probability_is_shared_by_the_classes_that_are_not_kept():
    logits = logits_like_a_model(6)
    found, whole = restored(compact(logits, keep=2)).softmax(0), logits.softmax(0)
    top = whole.topk(2, 0).indices
    torch.testing.assert_close(found.gather(0, top), whole.gather(0, top), atol=0.02, rtol=0)


def test_damaged_files_are_named_and_other_teachers_refused(tmp_path, caplog):
    cache, logits = LogitCache(tmp_path / "c", {"teacher": "a"}), logits_like_a_model(4)
    key = pixel_key(torch.zeros(3, 8, 8))
    assert cache.read(key) is None
    kept = cache.write(key, logits)
    assert torch.equal(LogitCache(tmp_path / "c", {"teacher": "a"}).read(key), kept)
    (path,) = tmp_path.rglob("*.logits")
    content = bytearray(path.read_bytes())
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:50], b""):
        path.write_bytes(damaged)
        caplog.clear()
        assert cache.read(key) is None
        assert f"`{path}` are damaged" in caplog.text
    with pytest.raises(CheckpointError, match="`teacher` is a, expected b"):
        LogitCache(tmp_path / "c", {"teacher": "b"})
    with pytest.raises(CheckpointError, match="is no cache"):
        LogitCache(path.parent, {})


def test_keys_are_of_what_is_shown():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert pixel_key(image) == pixel_key(image / 255)
    changed = image.clone()
    changed[0, 0, 0] ^= 1
    assert len({pixel_key(each) for each in (image, image.flip(-1), changed, image[None])}) == 4


def test_the_teacher_is_asked_once_for_each_picture(tmp_path):
    segmenter, asked = segformer(), []
    segmenter.register_forward_pre_hook(lambda _module, given: asked.append(len(given[0])))
    cache = LogitCache(tmp_path, {})
    teacher = Teacher("large", Tapped(segmenter).eval(), "f", runtime(), cache)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    first = teacher(images[:2]).output.logits
    again = teacher(images).output.logits
    assert asked == [2, 1]
    assert torch.equal(again[:2], first)
    exact = segmenter(images[:2]).logits
    torch.testing.assert_close(first.softmax(1), exact.softmax(1), atol=5e-3, rtol=0)


PLAIN = {"scale": [1, 1], "photometric": False}


def test_a_cache_that_would_never_be_met_again_is_refused(tmp_path):
    distill = {"teacher": "x", "cache": str(tmp_path / "c")}
    with pytest.raises(ValueError, match=r"no effect with `augment.scale`, `augment.photometric`"):
        FinetuneConfig(distill=distill)
    FinetuneConfig(distill=distill, augment=PLAIN)
    demo = FinetuneConfig.load(flags={"distill.cache": str(tmp_path / "c"), **settings_of(tmp_path, **PLAIN)})
    pictures = painted([(torch.zeros(70, 64, 3).byte().numpy(), torch.zeros(70, 64).byte().numpy())], DEMO)
    with pytest.raises(ConfigError, match="crops are 64 x 64 .height x width., images up to 70 x 64"):
        open_teacher(demo, pictures, runtime())
    fewer = {"distill.cache": str(tmp_path / "c"), "distill.cache_classes": 1, "augment.short_side": 32}
    some = FinetuneConfig.load(flags={**settings_of(tmp_path, **PLAIN), **fewer})
    with pytest.raises(ConfigError, match="1 take 3 bytes a place, all 2 take 2"):
        open_teacher(some, pictures, runtime())


DEMO = FinetuneConfig().data.labels()


def settings_of(folder, **augment):
    """A run on the demo, taught by an UPerNet in `folder`."""
    if not (folder / "teacher").exists():
        torch.manual_seed(7)
        save_model(upernet(DEMO), DEMO, folder / "teacher")
    return {
        "output": str(folder / "run"),
        "model": {"pretrained": "none", "overrides": MIT},
        "augment": {"crop_size": 64, **augment},
        "loader": {"batch_size": 4, "workers": 0},
        "optim": {"lr": 1e-3, "head_lr": 2},
        "train": {"steps": 4, "eval_every": 50, "checkpoint_every": 2, "log_every": 1},
        "runtime": {"cpu": True},
        "verify_data": False,
        "distill.teacher": str(folder / "teacher"),
    }


ALL = {"distill.cwd": 3, "distill.feature": 0.5, "distill.pairwise": 2, "distill.temperature": 2}


class Stopped(Exception):
    pass


def train_here(config, *, end_at=None, resume=False):
    started = config.runtime.start()
    config.output.mkdir(exist_ok=True)
    opened, validation = open_data(config, started)
    task = make_task(config, build_model(config, opened, started), opened, validation, started)

    def batches(start):
        for number, batch in enumerate(task.batches(start), start):
            if number == end_at:
                raise Stopped
            yield batch

    state = load_newest(config.output / "checkpoints", warn=print) if resume else None
    plan = config.train.plan(batches_per_epoch(config, opened, started))
    scores = {"loss": 1.0, "mean_iou": 0.5, "overall_accuracy": 0.5}
    changed = {**vars(task), "batches": batches, "validate": lambda: scores}
    fit(type(task)(**changed), plan, config.optim, started, config.output, state=state)


@pytest.mark.slow
def test_a_run_learns_from_its_teacher_and_goes_on_bit_for_bit_after_a_stop(tmp_path):
    flags = {**settings_of(tmp_path), **ALL}
    before = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    whole = FinetuneConfig.load(flags=flags)
    cut = FinetuneConfig.load(flags={**flags, "output": str(tmp_path / "cut")})
    train_here(whole)
    with pytest.raises(Stopped):
        train_here(cut, end_at=3)
    train_here(cut, resume=True)
    states = [load_file(run.output / "checkpoints" / "step-000004" / "model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert {name for name in states[0] if not name.startswith("segmenter.")} == {"projection.weight", "projection.bias"}
    first = Tapped(segformer(DEMO), taps=True, width=24, seed=0).projection.weight
    assert not torch.equal(states[0]["projection.weight"], first)
    exported = load_file(whole.output / "last" / "model.safetensors")
    assert len(exported) == len(segformer(DEMO).hf.state_dict())
    open_model(whole.output / "last")  # which refuses parameters that are left over
    lines = [json.loads(line) for line in (whole.output / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    assert trained[0].keys() >= {"ce", "kd", "cwd", "feature", "pairwise", "teacher_ms", "teacher_share"}
    for line in trained:
        wanted = line["ce"] + line["kd"] + 3 * line["cwd"] + 0.5 * line["feature"] + 2 * line["pairwise"]
        assert line["loss"] == pytest.approx(wanted, rel=1e-5)
    assert trained[-1]["teacher_ms"] > 0
    assert 0 < trained[-1]["teacher_share"] < 1
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == before


def test_nothing_of_the_teacher_moves(tmp_path):
    config = FinetuneConfig.load(flags={**settings_of(tmp_path), **ALL})
    train, validation = open_data(config, started := config.runtime.start())
    teacher = open_teacher(config, train, started)
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    task = make_task(config, build_model(config, train, started), train, validation, started, teacher=teacher)
    assert not any(module.training for module in teacher.model.modules())
    held = {id(parameter) for parameter in task.model.parameters()}
    assert not held & {id(parameter) for parameter in teacher.model.parameters()}
    task.model.train()
    batch = task.augment(next(iter(task.batches(0))))
    task.loss_fn(task.model, batch)["total"].backward()
    assert task.model.projection.weight.grad.any()
    assert all(value.grad is None for value in teacher.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert fingerprint(teacher.model.segmenter) == teacher.fingerprint


def test_a_student_that_is_its_teacher_learns_from_labels_alone(tmp_path):
    flags = settings_of(tmp_path) | {"model": {"kind": "checkpoint", "checkpoint": str(tmp_path / "teacher")}}
    config = FinetuneConfig.load(flags=flags)
    train, validation = open_data(config, started := config.runtime.start())
    task = make_task(
        config,
        CheckpointModelConfig(checkpoint=str(tmp_path / "teacher")).build(DEMO).eval(),
        train,
        validation,
        started,
    )
    task.model.eval()
    batch = task.augment(next(iter(task.batches(0))))
    task.loss_fn(task.model, batch)["kd"].backward()
    assert max(float(value.grad.abs().max()) for value in task.model.parameters() if value.grad is not None) < 1e-6


@pytest.mark.slow
def test_a_run_with_kept_logits_is_the_same_the_second_time(tmp_path):
    flags = {**settings_of(tmp_path, **PLAIN, short_side=64), "distill.cache": str(tmp_path / "c")}
    for name in ("cold", "warm"):
        train_here(FinetuneConfig.load(flags={**flags, "output": str(tmp_path / name)}))
    one, other = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("cold", "warm"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert len(list((tmp_path / "c").rglob("*.logits"))) == 16


def test_a_teacher_of_other_classes_is_refused_and_the_difference_named(tmp_path):
    config = FinetuneConfig.load(flags=settings_of(tmp_path))
    for names, said in (
        (["background", "token"], "class 1 is `coin` in the model and `token` in the data set"),
        (["background", "coin", "rim"], "it has 2 classes, the data set has 3"),
    ):
        train = painted(
            [(torch.zeros(8, 8, 3).byte().numpy(), torch.zeros(8, 8).byte().numpy())], LabelSpace.from_names(names)
        )
        with pytest.raises(DataError, match=f"the teacher does not fit: .*{said}"):
            open_teacher(config, train, runtime())


def test_a_run_goes_on_with_the_weights_that_taught_it_alone(tmp_path):
    folder, teacher = RunFolder(tmp_path), teacher_of(segformer())
    teacher.keep(folder)
    teacher.check(folder)
    with pytest.raises(CheckpointError, match="its fingerprint is `g`, expected `f`"):
        Teacher("large", teacher.model, "g", teacher.runtime).check(folder)


def test_the_share_of_a_round_is_told_once():
    told = []
    watch = Stopwatch(torch.device("cpu"), tell=lambda ms, share: told.append((ms, share)))
    for _ in range(4):
        with watch.running():
            torch.rand(200, 200).exp()
        torch.rand(400, 400).exp()
    ((ms, share),) = told
    assert ms > 0
    assert 0 < share < 1
    assert set(watch.terms("teacher")) == {"teacher_ms", "teacher_share"}


TAUGHT = """
data: {kind: demo}
model: {kind: segformer, backbone: mit-b0, pretrained: none, overrides: OVERRIDES}
augment: {crop_size: 64}
loader: {eval_batch_size: 5, workers: 0}
freeze: {modules: [decode_head.batch_norm]}
optim: {lr: 1.0e-3, clip_norm: 1.0}
train: {steps: 6, eval_every: 6, checkpoint_every: 6, log_every: 6}
distill: {teacher: TEACHER, cwd: 1, feature: 1, pairwise: 1}
verify_data: false
"""


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_are_taught_as_one(tmp_path, sharding):
    settings_of(tmp_path)
    text = TAUGHT.replace("OVERRIDES", json.dumps(MIT)).replace("TEACHER", str(tmp_path / "teacher"))
    (tmp_path / "config.yaml").write_text(text)
    train(1, tmp_path / "config.yaml", tmp_path / "one")
    train(2, tmp_path / "config.yaml", tmp_path / "two", f"runtime.sharding={sharding}")
    for name in ("last/model.safetensors", "checkpoints/step-000006/model.safetensors"):
        assert_close_weights(tmp_path / "one" / name, tmp_path / "two" / name, atol=2e-5)
