"""What `hfseg predict` does with a clip: decode, predict and encode at once, and tell how steady it was."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hfseg.data import model_input
from hfseg.engine.checkpoint import write_file
from hfseg.engine.inference import ProtocolConfig, SlideConfig
from hfseg.engine.smoothing import Smoother
from hfseg.engine.stop import StopWish
from hfseg.errors import ConfigError, RunInterrupted
from hfseg.labels import LabelSpace
from hfseg.models import FrameStream, Segmenter, StreamConfig
from hfseg.recipes.clip_output import ClipOutput, Predicted, VideoConfig
from hfseg.recipes.console import say
from hfseg.video import Clip, CutDetector, Frame, FramePredictor, read_ahead, write_behind

DEPTH = 4
"""Frames that are decoded ahead, and predictions that wait to be drawn."""
LINE_S = 10.0
"""Seconds between lines about progress where there is no terminal."""


@dataclass(frozen=True)
class ModelFrames:
    """Shows each frame to a segmentation model, under a protocol; scores are averaged over time where asked for.

    A model with memory is shown each frame once, and keeps what it needs of those before.

    Raises:
        ConfigError: the protocol shows a frame several times, or in windows, each of which would need a memory; or
            `memory` is set and the model has none.
    """

    segmenter: Segmenter
    protocol: ProtocolConfig
    smoother: Smoother | None = None
    memory: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        if not self.segmenter.memory_frames and self.memory != StreamConfig():
            raise ConfigError(
                "`memory` has no effect: the model sees every frame by itself", hint="leave `memory` settings out"
            )
        protocol = self.protocol
        several = isinstance(protocol, SlideConfig) or len(protocol.scales) > 1 or protocol.flip
        if self.segmenter.memory_frames and several:
            raise ConfigError(
                f"a model with memory sees each frame of a video whole and once: got `{protocol.to_text()}`",
                hint="--protocol whole, with one scale and without --flip",
            )

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
        """Predict the classes of one frame at its own size."""
        self._model.eval()
        seen = np.stack([model_input(image, short_side=self.protocol.loader_short_side)])
        pixel_values = torch.from_numpy(seen).permute(0, 3, 1, 2).to(self.segmenter.mean.device)
        views = self.protocol.views(self._model, pixel_values)
        if self.smoother is not None:
            views = self.smoother.smooth(views, pixel_values)
        pred: Integer[np.ndarray, "h w"] = views.argmax((image.shape[0], image.shape[1]))[0].cpu().numpy()
        return pred

    def reset(self) -> None:
        """Forget the frames before."""
        if self.smoother is not None:
            self.smoother.reset()
        if isinstance(self._model, FrameStream):
            self._model.reset()

    @property
    def memory_facts(self) -> dict[str, Any]:
        """What the model remembers, as it stands beside its predictions; nothing of a model without memory."""
        if not isinstance(self._model, FrameStream):
            return {}
        stream = self._model
        kept = {"frames": stream.memory_frames, "step": stream.step, "precision": self.memory.precision}
        return {"memory": kept}

    @cached_property
    def _model(self) -> Segmenter | FrameStream:
        return self.memory.build(self.segmenter) if self.segmenter.memory_frames else self.segmenter


@dataclass(frozen=True)
class ClipResult:
    """What became of one clip."""

    clip: Path
    written: tuple[Path, ...]
    seconds: float
    consistency: dict[str, Any]
    """What `STEM-consistency.json` holds."""

    @property
    def is_complete(self) -> bool:
        """Whether all of the clip could be read."""
        return not self.consistency["problems"]


def predict_clip(
    clip: Clip,
    predictor: FramePredictor,
    labels: LabelSpace,
    config: VideoConfig,
    stem: Path,
    *,
    about: Mapping[str, Any],
    wish: StopWish,
) -> ClipResult:
    """Predict a clip's frames while others are decoded and encoded, and write what `config` asks for at `stem`.

    `about` says what the predictions depend on; it stands in `STEM-consistency.json`.

    Raises:
        HfsegError: nothing can be decoded, or what is made cannot be written.
        RunInterrupted: a signal asked to stop; what was predicted before has been written and plays.
    """
    started = time.perf_counter()
    output = ClipOutput(clip, labels, config, stem)
    with closing(output):
        _through(clip, predictor, output, every=config.every, wish=wish)
        if wish.caught is None:
            output.finish()
    seconds = time.perf_counter() - started
    report = {"clip": str(clip.path), **about, **_report(clip, output, labels, config)}
    written = tuple(output.written)
    if not config.stdout:
        written += (stem.with_name(f"{stem.name}-consistency.json"),)
        write_file(written[-1], json.dumps(report, indent=2))
    _tell(report, seconds)
    if wish.caught is not None:
        hint = f"`{written[0]}` holds them and plays" if output.written else None
        raise RunInterrupted(f"stopped after {report['frames']} frames", hint=hint, exit_code=wish.exit_code)
    return ClipResult(clip.path, written, seconds, report)


def _report(clip: Clip, output: ClipOutput, labels: LabelSpace, config: VideoConfig) -> dict[str, Any]:
    """Put what is known after the last frame into what JSON has."""
    return {
        "every": config.every,
        "frames_per_s": float(clip.rate),
        "notes": [*clip.notes, *output.notes],
        "problems": clip.problems,
        **output.consistency.to_dict(labels.names, labels.palette),
    }


def _through(clip: Clip, predictor: FramePredictor, output: ClipOutput, *, every: int, wish: StopWish) -> None:
    """Predict frame by frame in this thread; a reader and a writer are at work beside it."""
    predictor.reset()
    frames = None if clip.num_frames is None else -(-clip.num_frames // every)
    with (
        _progress(clip.path.name, frames) as show,
        read_ahead(_scenes(clip, every), depth=DEPTH) as scenes,
        write_behind(output.write, depth=DEPTH) as hand_over,
    ):
        for done, (frame, cut) in enumerate(scenes, start=1):
            if cut:
                predictor.reset()
            hand_over(Predicted(frame, predictor.predict(frame.image), cut))
            show(done)
            if wish.caught is not None:
                return


def _scenes(clip: Clip, every: int) -> Iterator[tuple[Frame, bool]]:
    """Give each frame, and whether it begins another scene than the one given before it."""
    detector = CutDetector()
    for frame in clip.frames(every=every):
        yield frame, detector.is_cut(frame.image)


def _tell(report: dict[str, Any], seconds: float) -> None:
    """Say what a person should know of a clip."""
    for note in report["notes"]:
        say(f"{report['clip']}: {note}")
    for problem in report["problems"]:
        say(f"incomplete: {problem}")
    say(f"{report['clip']}: {report['frames']} frames in {seconds:.1f} s, {report['frames'] / seconds:.1f} a second")


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that shows how many frames are done: a bar on a terminal, a line now and then elsewhere."""
    console, started = Console(stderr=True), time.perf_counter()
    if not console.is_terminal:
        yield _lines(name, total)
        return
    speed = "{task.fields[speed]:.1f} frames/s"
    columns = (TextColumn("{task.description} {task.completed}/{task.total}"), BarColumn(), TextColumn(speed))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=total, speed=0.0)
        yield lambda done: bar.update(task, completed=done, speed=done / (time.perf_counter() - started))


def _lines(name: str, total: int | None) -> Callable[[int], None]:
    started = last = time.perf_counter()

    def show(done: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last > LINE_S:
            last = now
            say(f"{name}: {done}{f'/{total}' if total else ''} frames, {done / (now - started):.1f} frames/s")

    return show


def consistency_text(clips: Sequence[ClipResult]) -> str:
    """Write how steady the predictions of clips are, as a table."""
    name_width = max(4, *(len(clip.clip.name) for clip in clips))
    lines = [f"{'clip':<{name_width}}  {'frames':>6}  {'cuts':>4}  {'pixels kept':>11}  {'mIoU to next':>12}"]
    for clip in clips:
        found = clip.consistency
        kept, iou = ("-" if found[key] is None else f"{100 * found[key]:.2f} %" for key in ("pixels_kept", "mean_iou"))
        name, cuts = clip.clip.name, len(found["cuts"])
        lines.append(f"{name:<{name_width}}  {found['frames']:>6}  {cuts:>4}  {kept:>11}  {iou:>12}")
    return "\n".join(lines)
