"""Frames a second of a model with memory: as a stream, which encodes each frame once, against clip by clip.

    python scripts/bench_streaming.py --memory 4 --size 240 320

Random weights, frames of noise, one thread, batch 1, float32. Both ways take turns; seconds are those of
the processor, so that other work on the machine does not count, and the median of the rounds is taken.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hfseg.labels import LabelSpace
from hfseg.models import FrameStream, Segmenter, TmanetModelConfig

BLOCKS = ("nonlocal", "psp", "apnb", "afnb", "criss_cross", "dual", "apnb+afnb")
NUM_LABELS = 12


def build(args: argparse.Namespace, kind: str) -> Segmenter:
    """A model for inference, its gates open, so that what is read can be seen in the result."""
    torch.manual_seed(0)
    block = {"kind": kind, **({"mode": "full"} if kind == "criss_cross" else {})}
    config = TmanetModelConfig(
        backbone=args.backbone, pretrained="none", attention=block, memory_frames=args.memory, auxiliary=False
    )
    model = config.build(LabelSpace.from_names([f"class {index}" for index in range(NUM_LABELS)]))
    for each in model.hf.decode_head.block.parameters():
        if not each.any():
            torch.nn.init.normal_(each, std=0.02)
    return model.eval()


def compare(model: Segmenter, args: argparse.Namespace) -> tuple[float, float, float, float]:
    """Give frames a second clip by clip and as a stream, their largest relative difference, and the megabytes kept."""
    frames = torch.randint(0, 256, (args.memory + args.frames, 3, *args.size), dtype=torch.uint8)
    stream = FrameStream(model, dtype=torch.float16 if args.half else None)
    seconds: dict[str, list[float]] = {"clips": [], "stream": []}
    for _ in range(args.rounds):
        stream.reset()
        for frame in frames[: args.memory]:
            stream(frame[None])
        said = {
            "stream": timed(lambda last: stream(frames[last][None]).logits, args, seconds["stream"]),
            "clips": timed(
                lambda last: model(frames[None, last - args.memory : last + 1]).logits, args, seconds["clips"]
            ),
        }
    pairs = zip(said["stream"], said["clips"], strict=True)
    difference = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    clips, streamed = (args.frames / statistics.median(seconds[way]) for way in ("clips", "stream"))
    return clips, streamed, difference, stream.kept_bytes / 1e6


def timed(segment: Callable[[int], Tensor], args: argparse.Namespace, seconds: list[float]) -> list[Tensor]:
    """Segment the frames that have a whole memory before them, and note how long it took."""
    started = time.process_time()
    with torch.inference_mode():
        logits = [segment(last) for last in range(args.memory, args.memory + args.frames)]
    seconds.append(time.process_time() - started)
    return logits


def main() -> None:
    """Print one line per block."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet-18")
    parser.add_argument("--attention", nargs="+", default=BLOCKS, choices=BLOCKS)
    parser.add_argument("--memory", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--half", action="store_true", help="keep what is remembered in fp16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{args.backbone}, memory {args.memory}, {args.size[0]} x {args.size[1]}, one thread of a CPU")
    print(f"{'attention':<12} {'clips/s':>8} {'stream/s':>9} {'times':>6} {'kept MB':>8} {'difference':>11}")
    for kind in args.attention:
        clips, stream, difference, kept = compare(build(args, kind), args)
        print(f"{kind:<12} {clips:>8.2f} {stream:>9.2f} {stream / clips:>6.2f} {kept:>8.2f} {difference:>11.1e}")


if __name__ == "__main__":
    main()
