"""Counts of a whole set: in its order, whoever counted them, and without what memory cannot hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launches import torchrun
from ranks_evaluate import PROTOCOLS
from torch import nn
from torch.nn import functional as F

from hfseg.data.demo import DemoConfig
from hfseg.engine.evaluation import evaluate
from hfseg.engine.inference import SlideConfig, WholeConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.values import Batch, Counts, SegOutput


class Brightness(nn.Module):
    """Two classes, dark and bright, at the size of the image; counts how often it runs."""

    calls = 0

    def forward(self, pixel_values):
        self.calls += 1
        bright = pixel_values.float().mean(1, keepdim=True) / 255 - 0.5
        return SegOutput(torch.cat([-bright, bright], 1))


def batch(*ids, size=8):
    generator = torch.Generator().manual_seed(len(ids))
    images = torch.randint(0, 256, (len(ids), 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([int(name) for name in ids], dtype=torch.uint8).view(-1, 1, 1).expand(-1, 2 * size, size)
    return Batch(images, labels.contiguous(), ids)


def count(pred, labels):
    """Bright pixels of each image, its first label, and their sums."""
    bright, first = pred.flatten(1).sum(1), labels[:, 0, 0].long()
    return Counts(total={"bright": bright.sum(), "sizes": labels.new_tensor(labels.shape).long()},
                  images={"bright": bright, "first": first[:, None]})  # fmt: skip


def criterion(output, labels):
    return {"total": output.logits[:, 1].mean() + labels.float().mean()}


def score(batches, model=None, **changes):
    options = {"protocol": WholeConfig(), "count": count, "criterion": criterion} | changes
    return evaluate(model or Brightness(), batches, **options, runtime=RuntimeConfig(cpu=True).start())


def test_counts_are_summed_and_kept_for_each_image_in_order():
    batches = [batch("3", "1", "4"), batch("5", size=6), batch("9", "2")]
    found = score(batches)
    assert found.ids == ("3", "1", "4", "5", "9", "2")
    assert found.images["first"].tolist() == [[3], [1], [4], [5], [9], [2]]
    assert found.totals["sizes"].tolist() == [6, 16 + 12 + 16, 8 + 6 + 8]
    logits = [Brightness()(b.pixel_values).logits for b in batches]
    preds = [F.interpolate(x, (2 * x.shape[2], x.shape[3]), mode="bilinear").argmax(1) for x in logits]
    assert found.images["bright"].tolist() == [int(bright.sum()) for pred in preds for bright in pred]
    assert found.totals["bright"] == found.images["bright"].sum()


def test_the_loss_is_the_mean_over_images_and_the_model_runs_once_a_batch():
    batches, model = [batch("3", "1", "4"), batch("5", size=6)], Brightness()
    found = score(batches, model)
    losses = [float(criterion(model(b.pixel_values), b.labels)["total"]) for b in batches]
    assert found.loss == pytest.approx((3 * losses[0] + losses[1]) / 4)
    assert model.calls == 2 + 2


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": None},
        {"protocol": WholeConfig(flip=True)},
        {"protocol": WholeConfig(scales=(0.5, 1.0))},
        {"protocol": SlideConfig(crop_size=7)},
    ],
)
def test_there_is_no_loss_unless_each_image_was_seen_whole_and_once(changes):
    found = score([batch("1", "2"), batch("3", size=6)], **changes)
    assert found.loss is None
    assert len(found.ids) == 3


def test_the_model_is_put_into_evaluation_mode_and_back():
    modes = []
    model = Brightness().train()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    score([batch("1")], model)
    assert (modes, model.training) == ([False], True)
    score([batch("1")], model.eval())
    assert not model.training


def test_a_set_without_images_is_an_error():
    with pytest.raises(ValueError, match="there is nothing to evaluate: got no batch in any process"):
        score([])


@pytest.mark.slow
def test_one_two_and_three_processes_count_the_same(tmp_path):
    script = str(Path(__file__).with_name("ranks_evaluate.py"))
    said = {}
    for world_size in (1, 2, 3):
        torchrun(world_size, script, str(tmp_path / str(world_size)))
        ranks = [
            json.loads((tmp_path / str(world_size) / f"rank{rank}.json").read_text()) for rank in range(world_size)
        ]
        assert {found.pop("world_size") for found in ranks} == {world_size}
        assert all(found == ranks[0] for found in ranks)
        said[world_size] = ranks[0]
    assert said[1] == said[2] == said[3]
    dataset = DemoConfig().open("validation")
    for name in PROTOCOLS:
        assert said[1][name]["ids"] == [sample.id for sample in dataset]
        assert len(said[1][name]["images"]["boundary"]) == len(dataset)
        predicted = torch.tensor(said[1][name]["totals"]["confusion"]).sum(0)
        assert predicted.min() > 0, "the model must see every class for the counts to say anything"
    assert said[1]["whole"]["loss"] > 0
    assert said[1]["slide"]["loss"] is None
    assert len(said[3]["two images"]["ids"]) == 2  # the third process has none


@pytest.mark.slow
def test_evaluating_150_classes_takes_little_more_memory_than_the_model():
    script = Path(__file__).with_name("memory.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    assert peaks["500 images"] < 60, "predictions and labels of 500 images take 98 MB"
    assert peaks["after the model"] < 200, "logits at the size of the image take 1,200 MB"
    assert peaks["model"] > 2 * peaks["after the model"], (
        "the model's own part must be seen for the rest to say anything"
    )
    assert peaks["whole"] < 3 * peaks["model"]
    assert peaks["slide"] < 3 * peaks["model"]
