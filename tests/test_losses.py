"""Each loss against a plain float64 loop, and the strip-wise gradient against torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from hfseg.logits import resize_logits
from hfseg.losses import TERMS, LossConfig, parse_terms
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


def plain_dice(logits, labels):
    found = list(pixels(logits, labels))
    losses = []
    for c in sorted({y for _, y in found}):
        shared = sum(p[c] for p, y in found if y == c)
        sizes = sum(p[c] for p, _ in found) + sum(y == c for _, y in found)
        losses.append(1 - (2 * shared + 1) / (sizes + 1))
    return sum(losses) / len(losses)


ORACLES = {"ce": plain_ce, "dice": plain_dice}


def test_every_loss_has_an_oracle():
    assert ORACLES.keys() == TERMS.keys()


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_equals_its_definition(name, seed):
    logits, labels = case(seed=seed)
    found = TERMS[name](logits, labels, ignore_index=255).detach()
    assert float(found) == pytest.approx(ORACLES[name](logits, labels), rel=1e-10)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_the_definition(name):
    logits, labels = case()
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, labels, ignore_index=255), logits)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_that_is_all_ignored_gives_zero_and_no_gradient(name, dtype):
    logits, labels = case(dtype=dtype, ignored=1.1)
    loss = TERMS[name](logits, labels, ignore_index=255)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


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
    assert torch.equal(TERMS[name](logits, labels, ignore_index=255), TERMS[name](logits, wide, ignore_index=-100))


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
        ("", "is not a loss"),
    ],
)
def test_wrong_sums_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        parse_terms(text)


def test_sums_are_read():
    assert parse_terms("ce + 1e-1 * dice") == {"ce": 1.0, "dice": 0.1}
