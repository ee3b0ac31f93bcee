"""The largest batch: the search alone, and with modules that really take memory."""

from functools import partial
from itertools import repeat

import psutil
import pytest
import torch
from test_check import config_of, folder_of
from torch import nn

from hfseg.engine.auto_batch import largest_batch, largest_fitting
from hfseg.engine.optim import OptimConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.task import Task
from hfseg.errors import RunFailed
from hfseg.recipes import finetune, training
from hfseg.values import Batch

pytestmark = pytest.mark.slow

MB = 1 << 20
DIVISORS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]


@pytest.mark.parametrize("bound", range(50))
def test_the_largest_size_that_fits_is_found_and_nothing_beyond_a_size_that_does_not_is_tried(bound):
    seen = []

    def fits(size):
        assert all(size < other for other in seen if other > bound)
        seen.append(size)
        return size <= bound

    assert largest_fitting(DIVISORS, fits) == max((size for size in DIVISORS if size <= bound), default=None)
    assert len(seen) == len(set(seen)) <= 8


def test_sizes_are_doubled_first():
    seen = []
    largest_fitting(DIVISORS, lambda size: not seen.append(size))
    assert seen == [1, 2, 4, 8, 16, 24, 48]


class Hungry(nn.Module):
    """Keeps 8 MB for each image until the backward pass is done."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.ones(8 * MB // 4))
        self.seen: list[int] = []

    def forward(self, pixel_values):
        self.seen.append(len(pixel_values))
        rows = [(self.weight * float(place)).tanh() for place in range(len(pixel_values))]  # tanh keeps its output
        return self.norm(pixel_values.float()).mean() + sum(row.sum() for row in rows)


class Full(Hungry):
    """Has no memory for more than five images."""

    def forward(self, pixel_values):
        if len(pixel_values) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().forward(pixel_values)


def task_of(model: nn.Module) -> Task:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    batch = Batch(images, images[:, 0], ("x", "y"), torch.rand(2, 4))

    def nothing(*_):
        raise AssertionError("neither validated nor written")

    return Task(
        model, lambda start: repeat(batch), lambda given: given, lambda model, given: {"total": model(given.pixel_values)},
        nothing, nothing, nothing, seed=0,
    )  # fmt: skip


def found_with(model: nn.Module, images: int, **options) -> int:
    optim = OptimConfig(name="sgd", momentum=0)
    return largest_batch(task_of(model), optim, RuntimeConfig(cpu=True).start(), images=images, **options)


def test_a_batch_that_would_take_too_much_is_not_tried_and_no_smaller_one_is_chosen():
    model = Hungry()
    found_with(model, 8)  # what a first pass takes for good
    model.seen.clear()
    limit = psutil.Process().memory_info().rss + 150 * MB
    found = found_with(model, 64, limit=limit)
    assert found in (4, 8, 16)  # 8 to 16 MB an image
    assert max(model.seen) <= 2 * found
    assert 64 % found == 0


def test_the_error_of_a_device_without_memory_bounds_the_batch():
    assert found_with(Full(), 12) == 4
    with pytest.raises(RunFailed, match="memory of `cpu` does not suffice: 6 images of 8 x 8 pixels"):
        found_with(Full(), 12, least=5)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(Hungry):
        def forward(self, pixel_values):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        found_with(Broken(), 4)


def test_trials_leave_no_trace_in_the_model():
    model = Hungry()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert found_with(model, 4) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_batches_that_make_a_step_are_tried_and_never_too_small_ones():
    model = Hungry()
    assert found_with(model, 6, least=2) == 6
    assert model.seen == [2, 3, 6]
    lonely = Hungry()
    assert found_with(lonely, 1, least=2) == 1


@pytest.mark.slow
def test_a_run_keeps_the_images_of_a_step_and_goes_on_with_the_batch_that_was_found(tmp_path, monkeypatch):
    settings = {"optim.auto_batch": True, "loader.batch_size": 1, "train.accumulation": 4, "samples": 1}
    config = config_of(folder_of(tmp_path / "data"), **settings, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "largest_batch", partial(largest_batch, limit=psutil.Process().memory_info().rss // 2))
        with pytest.raises(RunFailed, match="does not suffice for 1 images a batch"):
            finetune.run(config)
    finetune.run(config)
    found = finetune.RunFolder(tmp_path / "run").settings()
    assert (found.loader.batch_size, found.train.accumulation, found.optim.auto_batch) == (4, 1, True)
    monkeypatch.setattr(training, "largest_batch", None)
    finetune.run(found, resume=True)
