"""What can be said of XLA devices without one; `make test-xla` has one."""

import pytest
import torch
from torch import nn

from hfseg.engine.runtime import RuntimeConfig
from hfseg.engine.xla import FromHost, check_xla, stacked
from hfseg.errors import LaunchError
from hfseg.values import SegOutput

FINE = RuntimeConfig().model_dump()


class Remembering(nn.Module):
    """A convolution that remembers how many images it was shown at once."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.seen = []

    def forward(self, pixel_values):
        self.seen.append(len(pixel_values))
        return SegOutput(self.layer(pixel_values))


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16)])
def test_batches_are_filled_up_for_the_model_and_only_for_it(count: int, shown: int):
    model = Remembering()
    pixels = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = FromHost(model)(pixels.clone())  # an inference tensor, as a protocol makes them
    assert model.seen == [shown]
    torch.testing.assert_close(found.logits, model.layer(pixels))


def test_clips_are_filled_up_as_images_are():
    shapes = []

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, pixel_values):
            shapes.append(tuple(pixel_values.shape))
            return SegOutput(self.layer(pixel_values[:, -1]))

    model, clips = Last(), torch.rand(3, 2, 3, 4, 5)
    torch.testing.assert_close(FromHost(model)(clips).logits, model.layer(clips[:, -1]))
    assert shapes == [(4, 2, 3, 4, 5)]


def test_numbers_on_one_device_are_stacked_in_order():
    assert stacked([torch.tensor(2.0), torch.tensor(1.0)]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("changed", "processes", "said"),
    [
        ({}, 8, "got 8 processes, expected 1"),
        ({"cpu": True}, 1, "`cpu` was asked for: got device `xla`"),
        ({"precision": "fp16"}, 1, "precision `fp16` needs a GPU: got device `xla`"),
        ({"compile": True}, 1, "`runtime.compile` is for other devices: got device `xla`"),
        ({"channels_last": True}, 1, "`runtime.channels_last` is for other devices"),
        ({"gradient_checkpointing": True}, 1, "`runtime.gradient_checkpointing` is for other devices"),
    ],
)
def test_what_does_not_run_on_xla_devices_is_refused_there_alone(changed: dict, processes: int, said: str):
    check_xla(torch.device("xla"), FINE, world_size=1)
    check_xla(torch.device("cpu"), {**FINE, **changed}, world_size=processes)
    with pytest.raises(LaunchError, match=said):
        check_xla(torch.device("xla"), {**FINE, **changed}, world_size=processes)
