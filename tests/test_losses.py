"""Each loss against a plain float64 loop, and the strip-wise gradient against torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from hfseg.engine.machine import memory_use
from hfseg.errors import ConfigError
from hfseg.logits import resize_logits
from hfseg.losses import TERMS, LossConfig, parse_terms
from hfseg.losses.class_weights import balanced_weights, read_weights
from hfseg.losses.cross_entropy import cross_entropy
from hfseg.values import SegOutput


def case(*, dtype=torch.float64, ignored=0.3, seed=0, source=(4, 5), target=(9, 14)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *source, generator=generator, dtype=dtype).mul_(3).requires_grad_()
    labels = torch.randint(0, 3, (2, *target), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return logits, labels


def pixels(logits, labels):
    """Give (probabilities, label) of every kept pixel, in plain Python."""
    large = F.interpolate(logits.detach(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    for b, y, x in torch.nonzero(labels != 255).tolist():
        scores = large[b, :, y, x].tolist()
        total = sum(math.exp(score) for score in scores)
        yield [math.exp(score) / total for score in scores], int(labels[b, y, x])


def plain_ce(logits, labels):
    values = [-math.log(p[y]) for p, y in pixels(logits, labels)]
    return sum(values) / len(values)


def plain_boundary(logits, labels, class_weights=(1, 1, 1)):
    """Weigh a pixel 5 times where another class stands within 3 rows and 3 columns."""
    places = torch.nonzero(labels != 255).tolist()
    total = summed = 0.0
    for (b, y, x), (p, label) in zip(places, pixels(logits, labels), strict=True):
        around = labels[b, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        weight = class_weights[label] * (5 if ((around != 255) & (around != label)).any() else 1)
        total, summed = total + weight, summed - weight * math.log(p[label])
    return summed / total


def plain_dice(logits, labels):
    found = list(pixels(logits, labels))
    losses = []
    for c in sorted({y for _, y in found}):
        shared = sum(p[c] for p, y in found if y == c)
        sizes = sum(p[c] for p, _ in found) + sum(y == c for _, y in found)
        losses.append(1 - (2 * shared + 1) / (sizes + 1))
    return sum(losses) / len(losses)


def plain_focal(logits, labels):
    values = [-((1 - p[y]) ** 2) * math.log(p[y]) for p, y in pixels(logits, labels)]
    return sum(values) / len(values)


def plain_ohem(logits, labels):
    own = sorted(p[y] for p, y in pixels(logits, labels))
    least = math.ceil(len(own) / 16)
    kept = [p for place, p in enumerate(own) if p < 0.7 or place < least]
    return -sum(math.log(p) for p in kept) / len(kept)


def plain_tversky(logits, labels):
    found = list(pixels(logits, labels))
    losses = []
    for c in sorted({y for _, y in found}):
        hit = sum(p[c] for p, y in found if y == c)
        wrong = sum(p[c] for p, y in found if y != c)
        missed = sum(1 - p[c] for p, y in found if y == c)
        losses.append(1 - (hit + 1) / (hit + 0.3 * wrong + 0.7 * missed + 1))
    return sum(losses) / len(losses)


def plain_lovasz(logits, labels):
    """Sum over the sorted errors of what each adds to the Jaccard loss of the set of errors so far."""
    found = list(pixels(logits, labels))
    losses = []
    for c in sorted({y for _, y in found}):
        errors = sorted(((1 - p[c] if y == c else p[c]), y == c) for p, y in found)[::-1]
        size = sum(y == c for _, y in found)
        value, before, wrong, missed = 0.0, 0.0, 0, 0
        for error, is_class in errors:
            missed, wrong = missed + is_class, wrong + (not is_class)
            jaccard = 1 - (size - missed) / (size + wrong)
            value, before = value + error * (jaccard - before), jaccard
        losses.append(value)
    return sum(losses) / len(losses)


ORACLES = {
    "boundary": plain_boundary,
    "ce": plain_ce,
    "dice": plain_dice,
    "focal": plain_focal,
    "lovasz": plain_lovasz,
    "ohem": plain_ohem,
    "tversky": plain_tversky,
}


def term(name):
    return TERMS[name].function


def test_every_loss_has_an_oracle():
    assert ORACLES.keys() == TERMS.keys()


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_equals_its_definition(name, seed):
    logits, labels = case(seed=seed)
    found = term(name)(logits, labels, ignore_index=255).detach()
    assert float(found) == pytest.approx(ORACLES[name](logits, labels), rel=1e-10)


@pytest.mark.many
@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_the_definition(name):
    logits, labels = case()
    assert torch.autograd.gradcheck(lambda x: term(name)(x, labels, ignore_index=255), logits)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_that_is_all_ignored_gives_zero_and_no_gradient(name, dtype):
    logits, labels = case(dtype=dtype, ignored=1.1)
    loss = term(name)(logits, labels, ignore_index=255)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", TERMS)
def test_validations_find_the_loss_of_training(name):
    logits, labels = case()
    with torch.inference_mode():
        found = term(name)(logits.detach().clone(), labels, ignore_index=255)
    assert float(found) == pytest.approx(float(term(name)(logits, labels, ignore_index=255).detach()), rel=1e-12)


@pytest.mark.parametrize(("source", "target"), [((16, 20), (64, 80)), ((31, 17), (13, 40)), ((6, 6), (6, 6))])
def test_cross_entropy_in_strips_equals_torch(source, target):
    logits, labels = case(dtype=torch.float32, source=source, target=target)
    cross_entropy(logits, labels, ignore_index=255, max_elements=900).mul(0.7).backward()
    found, logits.grad = logits.grad, None
    F.cross_entropy(resize_logits(logits, target), labels.long(), ignore_index=255).mul(0.7).backward()
    torch.testing.assert_close(found, logits.grad, rtol=1e-5, atol=1e-7)


def test_half_precision_logits_are_scored_in_float32():
    logits, labels = case(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits, labels, ignore_index=255)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain_ce(logits.float(), labels), rel=1e-5)


def test_a_loss_scale_beyond_half_precision_reaches_the_gradient():
    logits, labels = case(dtype=torch.float16, source=(8, 8), target=(64, 64))
    exact = logits.detach().float().requires_grad_()
    for leaf in (logits, exact):
        (cross_entropy(leaf, labels, ignore_index=255) * 2.0**17).backward()
    torch.testing.assert_close(logits.grad.float(), exact.grad, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", TERMS)
def test_labels_may_be_bytes_or_integers(name):
    logits, labels = case()
    wide = torch.where(labels == 255, -100, labels.long())
    assert torch.equal(term(name)(logits, labels, ignore_index=255), term(name)(logits, wide, ignore_index=-100))


def test_terms_are_weighted_summed_and_named_for_both_heads():
    logits, labels = case(dtype=torch.float32)
    aux, _ = case(dtype=torch.float32, seed=9)
    found = LossConfig(terms="ce+0.5*dice", auxiliary_weight=0.4).build()(SegOutput(logits, aux), labels)
    assert list(found) == ["ce", "dice", "aux_ce", "aux_dice", "total"]
    wanted = found["ce"] + 0.5 * found["dice"] + 0.4 * (found["aux_ce"] + 0.5 * found["aux_dice"])
    torch.testing.assert_close(found["total"], wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ce+dise", "did you mean `dice`"),
        ("ce+ce", "stands twice"),
        ("2ce", "is not a loss"),
        ("1.2.3*ce", "is not a weight"),
        ("1E400*ce", "`1E400` is too large"),
        ("0*ce+0.0*dice", "nothing is minimized, because all weights are 0"),
        ("", "is not a loss"),
    ],
)
def test_wrong_sums_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        parse_terms(text)


WEIGHTS = torch.tensor([0.5, 3.0, 1.5])


def patches(seed=0):
    """Labels of two patches with a hole of ignored pixels, so that most pixels lie far from the other class."""
    logits, labels = case(seed=seed, target=(20, 24))
    labels[:] = 0
    labels[:, 4:12, 14:] = 1
    labels[0, :, 8:12] = 255
    return logits, labels


def test_pixels_near_another_class_count_more_and_those_beside_ignored_ones_do_not():
    logits, labels = patches()
    found = term("boundary")(logits, labels, ignore_index=255, class_weights=WEIGHTS.double()).item()
    assert found == pytest.approx(plain_boundary(logits, labels, WEIGHTS.tolist()), rel=1e-10)
    even = term("boundary")(logits, labels, ignore_index=255, gain=0.0).item()
    assert even == pytest.approx(plain_ce(logits, labels), rel=1e-10)
    assert found != pytest.approx(even, rel=1e-2)


@pytest.mark.parametrize("name", ["ce", "focal", "ohem"])
def test_class_weights_make_a_weighted_average(name):
    logits, labels = case()
    found = list(pixels(logits, labels))
    if name == "ohem":
        own = sorted(p[y] for p, y in found)
        limit = max(0.7, own[math.ceil(len(own) / 16) - 1])
        found = [(p, y) for p, y in found if p[y] < limit]
    gamma = 2 if name == "focal" else 0
    total = sum(-WEIGHTS[y].item() * (1 - p[y]) ** gamma * math.log(p[y]) for p, y in found)
    wanted = total / sum(WEIGHTS[y].item() for _, y in found)
    assert term(name)(logits, labels, ignore_index=255, class_weights=WEIGHTS).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["boundary", "ce", "focal", "ohem"])
def test_a_batch_of_classes_without_weight_is_finite(name):
    logits, labels = case()
    loss = term(name)(logits, torch.zeros_like(labels), ignore_index=255, class_weights=torch.tensor([0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_and_weights_are_those_of_torch(smoothing):
    logits, labels = case()
    found = cross_entropy(
        logits, labels, ignore_index=255, class_weights=WEIGHTS, label_smoothing=smoothing, max_elements=200
    )
    large = resize_logits(logits, tuple(labels.shape[1:]))
    wanted = F.cross_entropy(large, labels.long(), WEIGHTS.double(), ignore_index=255, label_smoothing=smoothing)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)


def test_focal_without_focus_is_cross_entropy_and_tversky_of_halves_is_dice_of_half_the_smoothing():
    logits, labels = case(target=(90, 140))
    plain = cross_entropy(logits, labels, ignore_index=255).item()
    assert term("focal")(logits, labels, ignore_index=255, gamma=0.0).item() == pytest.approx(plain, rel=1e-10)
    tversky = term("tversky")(logits, labels, ignore_index=255, false_positive=0.5, false_negative=0.5).item()
    assert tversky == pytest.approx(term("dice")(logits, labels, ignore_index=255).item(), abs=1e-3)


def test_hard_pixels_alone_are_counted_and_never_fewer_than_asked_for():
    logits = torch.tensor([[[[4.0, 0.0], [1.0, -1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]]).movedim(0, 1)
    labels = torch.zeros(1, 2, 2, dtype=torch.uint8)
    entropy = F.cross_entropy(logits, labels.long(), reduction="none").flatten().sort(descending=True).values
    ohem = term("ohem")
    assert ohem(logits, labels, ignore_index=255, threshold=0.6).item() == pytest.approx(entropy[:2].mean().item())
    assert ohem(logits, labels, ignore_index=255, threshold=0.01, min_kept=0.75).item() == pytest.approx(
        entropy[:3].mean().item()
    )


@pytest.mark.parametrize("name", TERMS)
def test_strips_of_any_height_give_the_same_loss_and_gradient(name, monkeypatch):
    logits, labels = case(source=(6, 5), target=(24, 14))
    term(name)(logits, labels, ignore_index=255).backward()
    whole, logits.grad = logits.grad, None
    monkeypatch.setattr("hfseg.logits.CACHED_ELEMENTS", 300)
    term(name)(logits, labels, ignore_index=255).backward()
    torch.testing.assert_close(logits.grad, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_half_precision_logits_give_the_loss_and_gradient_of_what_they_hold(name):
    half, labels = case(dtype=torch.bfloat16)
    exact = half.detach().double().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = term(name)(half, labels, ignore_index=255)
    wanted = term(name)(exact, labels, ignore_index=255)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_head_that_says_infinity_under_ignored_labels_alone_leaves_the_loss_at_zero(name):
    logits, labels = case(dtype=torch.float32, ignored=1.1, source=(9, 14))
    loss = term(name)(logits * 1e30, labels, ignore_index=255)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_memory_does_not_grow_with_classes_times_pixels(name):
    """Logits of 64 classes at full size would take 256 MB, once; a map without classes takes 4 MB, or 8."""
    logits = torch.randn(1, 64, 32, 32, requires_grad=True)
    labels = torch.randint(0, 4, (1, 1024, 1024), dtype=torch.uint8)
    term(name)(logits[:, :, :4, :4], labels[:, :8, :8], ignore_index=255).backward()
    with memory_use("cpu") as use:
        term(name)(logits, labels, ignore_index=255).backward()
    assert use.peak - use.before < 150e6


def test_weights_balance_classes_as_enet_does():
    weights = balanced_weights([900, 90, 10])
    wanted = [1 / math.log(1.02 + share) for share in (0.9, 0.09, 0.01)]
    assert weights.tolist() == pytest.approx([value / (sum(wanted) / 3) for value in wanted], rel=1e-6)
    assert torch.isfinite(balanced_weights([5, 0])).all()


def test_weights_are_read_from_a_file_by_name_or_in_order(tmp_path):
    (tmp_path / "named.yaml").write_text("{b: 2, a: 1.5}")
    (tmp_path / "listed.yaml").write_text("[1.5, 2]")
    for name in ("named", "listed"):
        assert read_weights(tmp_path / f"{name}.yaml", ("a", "b")).tolist() == [1.5, 2.0]
    for text, message in (
        ("{a: 1}", "do not fit the 2 classes: got `a`"),
        ("[1, -2]", "`b` has the weight -2"),
        ("[1]", "got 1 values"),
        ("[1, .inf]", "`b` has the weight inf"),
        ("[0, 0]", "are all 0"),
    ):
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_weights(tmp_path / "wrong.yaml", ("a", "b"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weights(tmp_path / "none.yaml", ("a", "b"))


def test_settings_reach_their_term_and_no_other():
    logits, labels = case(dtype=torch.float32)
    config = LossConfig(terms="focal+ce", focal_gamma=0.5, label_smoothing=0.2, class_weights="auto")
    found = config.build(class_pixels=(70, 20, 10))(SegOutput(logits), labels)
    weights = balanced_weights((70, 20, 10))
    assert torch.equal(
        found["focal"], term("focal")(logits, labels, ignore_index=255, gamma=0.5, class_weights=weights)
    )
    assert torch.equal(
        found["ce"], cross_entropy(logits, labels, ignore_index=255, class_weights=weights, label_smoothing=0.2)
    )
    with pytest.raises(ValueError, match="`focal_gamma` has no effect on `ce`: got 3.0"):
        LossConfig(focal_gamma=3)
    with pytest.raises(ConfigError, match="pixels of the classes are not known"):
        config.build()


def test_sums_are_read():
    assert parse_terms("ce + 1e-1 * dice") == {"ce": 1.0, "dice": 0.1}
