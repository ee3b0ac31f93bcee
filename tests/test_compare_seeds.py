"""Intervals over seeds and images, and verdicts that allow for many pairs."""

import pytest
import torch

from hfseg.metrics import BootstrapConfig, ImageAreas
from hfseg.metrics.seeds import SeedComparison, holm, p_of, widening

BOOTSTRAP = BootstrapConfig(resamples=2000)
IMAGES = 40


def areas(hits, *, seed=0, noise=0.0, labelled=100):
    """Two classes of `labelled` pixels in each image, of which a share of `hits` is right, a little more or less."""
    generator = torch.Generator().manual_seed(seed)
    shares = (hits + noise * torch.randn(IMAGES, generator=generator)).clamp(0, 1)
    right = (shares * labelled).round().long()
    one = torch.stack((right, torch.full_like(right, labelled), torch.full_like(right, labelled)), dim=1)
    ids = tuple(f"image-{number}" for number in range(IMAGES))
    return ImageAreas(ids, one[..., None].expand(-1, -1, 2).contiguous())


def miou(hits):
    return hits / (2 - hits)


def test_with_one_seed_a_pair_is_what_two_evaluations_are():
    ours, theirs = areas(0.7, seed=1, noise=0.1), areas(0.69, seed=2, noise=0.1)
    pair = SeedComparison({"a": {0: ours}, "b": {0: theirs}}, BOOTSTRAP).pairs()[0]
    plain = BOOTSTRAP.difference(ours, theirs)
    assert (pair.difference, pair.interval) == (pytest.approx(plain.difference), pytest.approx(plain.interval))


def test_seeds_widen_the_interval_by_their_own_variance_and_by_how_few_they_are():
    """Images that are all alike leave nothing but the seeds to vary."""
    shares = (0.5, 0.6, 0.7)
    found = SeedComparison({"a": {seed: areas(hits) for seed, hits in enumerate(shares)}}, BOOTSTRAP)
    standing = found.standing("a")
    ious = torch.tensor([miou(hits) for hits in shares], dtype=torch.float64)
    assert standing.mean_iou == pytest.approx(float(ious.mean()))
    assert standing.spread == pytest.approx(float(ious.std()))
    error = float(ious.std()) / 3**0.5
    assert 1.5 * error < standing.mean_iou - standing.interval[0] < 6 * error  # Student's is 4.3 times the error


def test_the_widening_is_the_tabulated_quantile():
    for seeds, student in ((2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)):
        assert widening(seeds, 0.95) == pytest.approx((seeds / (seeds - 1)) ** 0.5 * student / 1.960, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_recipes_that_differ_in_nothing_but_luck_are_seldom_told_apart(seeds):
    few, generator, trials = BootstrapConfig(resamples=200), torch.Generator().manual_seed(seeds), 150
    told = 0
    for _ in range(trials):
        luck = 0.6 + 0.03 * torch.randn(2, seeds, generator=generator)
        runs = [{seed: areas(float(hits), labelled=10_000) for seed, hits in enumerate(row)} for row in luck]
        told += SeedComparison({"a": runs[0], "b": runs[1]}, few).pairs()[0].verdict != "not distinguishable"
    assert told / trials < 0.12


def test_seeds_that_move_both_members_alike_leave_their_difference_alone():
    members = {name: {seed: areas(base + 0.1 * seed) for seed in range(3)} for name, base in (("a", 0.5), ("b", 0.48))}
    found = SeedComparison(members, BOOTSTRAP)
    assert found.pairs()[0].verdict == "better"
    low, high = found.standing("a").interval
    assert high - low > 10 * (found.pairs()[0].interval[1] - found.pairs()[0].interval[0])


def test_a_member_that_lost_a_seed_is_compared_on_the_seeds_that_are_left():
    members = {"a": {0: areas(0.5), 1: areas(0.9)}, "b": {0: areas(0.6)}}
    pair = SeedComparison(members, BOOTSTRAP).pairs()[0]
    assert pair.difference == pytest.approx(miou(0.5) - miou(0.6))
    assert pair.verdict == "worse"


def test_equal_models_are_not_distinguishable():
    pair = SeedComparison({"a": {0: areas(0.7, noise=0.1)}, "b": {0: areas(0.7, noise=0.1)}}, BOOTSTRAP).pairs()[0]
    assert (pair.difference, pair.p_value, pair.verdict) == (0, 1, "not distinguishable")


def test_holm_gives_the_published_numbers():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.9]) == [1, 1]


def test_p_values_are_two_sided_and_never_zero():
    assert p_of(torch.ones(999, dtype=torch.float64)) == pytest.approx(0.002)
    assert p_of(-torch.ones(999, dtype=torch.float64)) == pytest.approx(0.002)
    assert p_of(torch.zeros(999, dtype=torch.float64)) == 1


def test_what_is_sure_alone_is_not_sure_among_many():
    """A pair whose own interval leaves out zero loses its verdict when twenty others are looked at."""
    close = {"a": {0: areas(0.72, seed=1, noise=0.1)}, "b": {0: areas(0.67, seed=2, noise=0.1)}}
    alone = SeedComparison(close, BOOTSTRAP).pairs()[0]
    others = {f"c{number}": {0: areas(0.70, seed=10 + number, noise=0.1)} for number in range(6)}
    among = SeedComparison(close | others, BOOTSTRAP).pairs()[0]
    assert alone.verdict == "better"
    assert among.interval == alone.interval
    assert among.verdict == "not distinguishable"


def test_a_class_has_a_clear_winner_or_an_open_one():
    better = areas(0.7, seed=1, noise=0.05)
    worse = ImageAreas(better.ids, better.areas.clone())
    worse.areas[:, 0, 0] //= 2
    first, second = SeedComparison({"a": {0: worse}, "b": {0: better}}, BOOTSTRAP).class_winners()
    assert (first.winner, first.next_best, first.is_clear) == ("b", "a", True)
    assert (second.difference, second.is_clear) == (0, False)


def test_runs_on_other_images_are_refused():
    other = ImageAreas(tuple(f"x{number}" for number in range(IMAGES)), areas(0.5).areas)
    with pytest.raises(ValueError, match="image 0 is `image-0` of one model and `x0` of the other"):
        SeedComparison({"a": {0: areas(0.5)}, "b": {0: other}}, BOOTSTRAP)
