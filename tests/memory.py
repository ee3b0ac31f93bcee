"""Started in test_engine_evaluation.py: the memory that ways of evaluating 150 classes add at their peaks, as JSON.

Peaks only rise, so every way is preceded by those that need less. MB, above what the process held after a warm-up.
"""

import json
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hfseg.engine.evaluation import evaluate
from hfseg.engine.inference import ProtocolConfig, SlideConfig, WholeConfig
from hfseg.engine.runtime import RuntimeConfig
from hfseg.metrics.counting import Counting
from hfseg.models import Segmenter
from hfseg.models.pixels import Pixels
from hfseg.values import Batch, SegOutput

NUM_LABELS = 150
LARGE = (1024, 2048)


class Ready(nn.Module):
    """Says at once what it has to say of an image, at a quarter of its size."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.output = SegOutput(torch.randn(1, NUM_LABELS, height // 4, width // 4))

    def forward(self, pixel_values: torch.Tensor) -> SegOutput:
        """Give the logits."""
        return self.output


def peak_mb() -> float:
    """The most memory this process has held; `getrusage` would count what its parent held when it was started."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def images(count: int, height: int, width: int) -> Iterator[Batch]:
    """Batches of one image each, with labels at the image's size."""
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    labels = torch.randint(0, NUM_LABELS, (1, height, width), dtype=torch.uint8)
    for number in range(count):
        yield Batch(pixels, labels, (str(number),))


def main() -> None:
    """Print the peak after each way."""
    torch.set_num_threads(1)
    segmenter = Segmenter(SegformerForSemanticSegmentation(SegformerConfig(num_labels=NUM_LABELS)), Pixels()).eval()
    runtime = RuntimeConfig(cpu=True).start()

    def score(model: nn.Module, batches: Iterator[Batch], protocol: ProtocolConfig) -> float:
        count = Counting(NUM_LABELS)
        evaluate(model, batches, protocol=protocol, count=count, criterion=None, runtime=runtime)
        return peak_mb() - before

    before = peak_mb()
    score(segmenter, images(4, 96, 128), WholeConfig())
    score(Ready(96, 128), images(40, 96, 128), WholeConfig())
    before, peaks = peak_mb(), {}
    peaks["500 images"] = score(Ready(96, 128), images(500, 96, 128), WholeConfig())
    peaks["after the model"] = score(Ready(*LARGE), images(1, *LARGE), WholeConfig())
    with torch.inference_mode():
        segmenter(next(images(1, *LARGE)).pixel_values)
    peaks["model"] = peak_mb() - before
    peaks["whole"] = score(segmenter, images(1, *LARGE), WholeConfig())
    peaks["slide"] = score(segmenter, images(1, *LARGE), SlideConfig())
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
