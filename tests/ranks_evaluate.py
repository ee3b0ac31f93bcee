"""Started by torchrun in test_engine_evaluation.py: scores a model on its share of the batches, and says what it got."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hfseg.data import LoaderConfig, eval_loader
from hfseg.data.demo import DemoConfig
from hfseg.engine.evaluation import Evaluation, evaluate
from hfseg.engine.inference import ProtocolConfig, SlideConfig, WholeConfig
from hfseg.engine.runtime import Runtime, RuntimeConfig
from hfseg.losses import LossConfig
from hfseg.metrics.counting import Counting
from hfseg.models import Segmenter
from hfseg.models.pixels import Pixels
from hfseg.values import Batch

PROTOCOLS: dict[str, ProtocolConfig] = {
    "whole": WholeConfig(short_side=80),
    "slide": SlideConfig(crop_size=96, scales=(0.75, 1.0), flip=True),
}


def main(folder: Path) -> None:
    """Evaluate under every protocol, and on two images only, and write it all as this rank's JSON."""
    torch.set_num_threads(1)
    runtime = RuntimeConfig(cpu=True).start()
    said = {name: facts(score(runtime, protocol)) for name, protocol in PROTOCOLS.items()}
    said["two images"] = facts(score(runtime, WholeConfig(short_side=64), most=2))
    said["world_size"] = runtime.world_size
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{runtime.rank}.json").write_text(json.dumps(said))


def score(runtime: Runtime, protocol: ProtocolConfig, most: int | None = None) -> Evaluation:
    """Score SegFormer with seeded weights on this rank's batches of the demo images, `most` in all."""
    torch.manual_seed(0)
    dataset = DemoConfig().open("validation")
    config = SegformerConfig(
        num_labels=dataset.labels.num_labels, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    loader = eval_loader(
        dataset,
        LoaderConfig(eval_batch_size=1 if most else 5, workers=0),
        short_side=protocol.loader_short_side,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )

    def dealt() -> Iterator[Batch]:
        for number, batch in enumerate(loader):
            if most is None or number * runtime.world_size + runtime.rank < most:
                yield batch

    segmenter = Segmenter(SegformerForSemanticSegmentation(config), Pixels())
    segmenter.hf.decode_head.classifier.weight.data.mul_(30)  # so that it does not see one class everywhere
    return evaluate(
        segmenter,
        dealt(),
        protocol=protocol,
        count=Counting(dataset.labels.num_labels, dataset.labels.ignore_index, 0.02),
        criterion=LossConfig().build(ignore_index=dataset.labels.ignore_index),
        runtime=runtime,
    )


def facts(found: Evaluation) -> dict[str, Any]:
    """What was found, as JSON has it."""
    return {
        "ids": list(found.ids),
        "loss": found.loss,
        "totals": {name: total.tolist() for name, total in found.totals.items()},
        "images": {name: counts.tolist() for name, counts in found.images.items()},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
