"""The learning-rate range test: on a parabola whose rates are known, and as a verb that writes one picture."""

import json
import math
from itertools import repeat

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_check import config_of, folder_of

from hfseg.engine.lr_range import LEAST, LrRange, LrSpan, lr_range
from hfseg.engine.optim import OptimConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.task import Task
from hfseg.errors import ConfigError
from hfseg.recipes import lr
from hfseg.values import Batch
from hfseg.viz.lr import lr_figure, lr_text

pytestmark = pytest.mark.slow

CURVATURE = 20.0
SPAN = LrSpan(first=1e-4, last=10, steps=80)
SGD = OptimConfig(name="sgd", momentum=0, weight_decay=0)


class Point(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor([[3.0]]))


def parabola(scale=lambda step: 1.0) -> Task:
    """A task whose loss is half of CURVATURE x squared, times a factor that may change from batch to batch."""
    batch = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8), ("x",))
    taken = iter(range(10_000))

    def loss_fn(model, given):
        return {"total": scale(next(taken)) * CURVATURE / 2 * model.x.square().sum()}

    def nothing(*_):
        raise AssertionError("neither validated nor written")

    return Task(Point(), lambda start: repeat(batch), lambda given: given, loss_fn, nothing, nothing, nothing, seed=0)


def tried(task: Task, span: LrSpan = SPAN, optim: OptimConfig = SGD, **options) -> LrRange:
    return lr_range(task, optim, RuntimeConfig(cpu=True).start(), span, **options)


def test_losses_are_those_of_gradient_descent_with_rates_that_rise_by_one_factor():
    found = tried(parabola())
    x, wanted = 3.0, []
    for rate in found.lrs:
        wanted.append(CURVATURE / 2 * x**2)
        x -= rate * CURVATURE * x
    assert found.losses == pytest.approx(wanted, rel=1e-4)
    assert np.allclose(np.diff(np.log(found.lrs)), math.log(SPAN.last / SPAN.first) / 79)
    assert found.lrs[0] == SPAN.first


def test_the_test_ends_where_the_loss_diverges_and_suggests_a_rate_that_does_not():
    found = tried(parabola())
    assert found.is_diverged
    assert len(found.losses) < SPAN.steps
    bound = 2 / CURVATURE  # above it every step makes the loss larger
    assert bound < found.lrs[-1]
    assert found.steepest < bound
    assert bound / 2 < found.lowest < 10 * bound
    assert found.suggested == pytest.approx(found.lowest / 10)
    assert found.suggested < bound


def test_a_loss_that_is_not_finite_ends_the_test_and_is_not_kept():
    found = tried(parabola(lambda step: math.nan if step == 30 else 1.0))
    assert found.is_diverged
    assert len(found.losses) == len(found.lrs) == 30
    assert all(math.isfinite(loss) for loss in found.losses)


def test_several_batches_make_one_step_and_their_losses_one_mean():
    alone = tried(parabola())
    several = tried(parabola(lambda batch: 0.5 + batch % 2), accumulation=2)
    assert several.losses == pytest.approx(alone.losses, rel=1e-4)


def test_rates_of_depths_keep_their_factors():
    task = parabola()
    halved = Task(**{**vars(task), "depths": {"x": 0, "head": 1}})
    found = tried(halved, optim=SGD.model_copy(update={"layer_decay": 0.5}))
    plain = tried(parabola(), LrSpan(first=SPAN.first / 2, last=SPAN.last / 2, steps=SPAN.steps))
    same = min(len(found.losses), len(plain.losses))
    assert found.losses[:same] == pytest.approx(plain.losses[:same], rel=1e-4)


def test_the_running_mean_has_no_trace_of_its_beginning():
    assert LrRange((1.0, 2.0, 3.0), (5.0, 5.0, 5.0), is_diverged=False).smoothed == pytest.approx((5, 5, 5))
    one, two = LrRange((1.0, 2.0), (4.0, 1.0), is_diverged=False).smoothed
    assert one == pytest.approx(4)
    assert two == pytest.approx((0.9 * 0.1 * 4 + 0.1 * 1) / (1 - 0.81))


def test_a_loss_that_only_grows_suggests_nothing():
    found = LrRange(tuple(np.geomspace(1e-5, 1, 30).tolist()), tuple(map(float, range(1, 31))), is_diverged=True)
    assert found.lowest is found.steepest is found.suggested is None
    told = lr.LrResult(found)
    assert "no suggestion" in told.to_text()
    assert "No learning rate to suggest" in lr_figure(told.to_dict()).get_suptitle()


def test_a_test_without_a_single_finite_loss_says_so():
    told = lr.LrResult(tried(parabola(lambda step: math.inf)))
    assert told.found.losses == ()
    assert told.to_text().startswith("0 steps; the loss diverged then\nno suggestion")
    with pytest.raises(ValueError, match="no loss to draw"):
        lr_figure(told.to_dict())


def test_a_loss_that_still_falls_asks_for_larger_rates():
    found = tried(parabola(), LrSpan(first=1e-5, last=1e-2, steps=40))
    assert not found.is_diverged
    assert found.lowest == found.lrs[-1]
    assert "still falling" in lr_text(lr.LrResult(found).to_dict())


@pytest.mark.parametrize(("changes", "message"), [({"first": 2}, "must be larger"), ({"steps": LEAST}, "more than 10")])
def test_spans_that_say_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LrSpan(**changes)


def test_the_figure_names_the_rate_and_the_rule():
    figure = lr_figure(lr.LrResult(tried(parabola())).to_dict())
    assert isinstance(figure, Figure)
    assert "a tenth of" in figure.get_suptitle()
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_xscale()) == ("learning rate", "log")
    figure.canvas.draw()
    assert "1e-02" in [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert [text.get_text().split()[0] for text in figure.axes[0].texts] == ["steepest", "suggested", "lowest"]


def test_the_verb_writes_its_picture_and_nothing_else(tmp_path):
    config = config_of(folder_of(tmp_path / "data"), **{"output": str(tmp_path / "run"), "runtime.cpu": True})
    before = set(tmp_path.rglob("*"))
    result = lr.run(config, output=tmp_path / "lr.png", span=LrSpan(first=1e-5, last=10, steps=20))
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "lr.png"}
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(told["lrs"]) == len(told["losses"]) == len(told["smoothed"])
    assert told["picture"] == str(tmp_path / "lr.png")
    assert "steps with learning rates from 1.0e-05" in result.to_text()
    with pytest.raises(ConfigError, match="exists already"):
        lr.run(config, output=tmp_path / "lr.png")
    with pytest.raises(ConfigError, match="is no PNG file"):
        lr.run(config, output=tmp_path)
