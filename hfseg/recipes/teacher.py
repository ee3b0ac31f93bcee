"""The teacher of a run: opened and checked, asked about every batch, and how a student is taught by it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from hfseg.data import StreamDataset
from hfseg.engine.checkpoint import write_file
from hfseg.engine.logit_cache import LogitCache, pixel_key
from hfseg.engine.runtime import Runtime
from hfseg.engine.stopwatch import Stopwatch
from hfseg.engine.task import LossFn
from hfseg.errors import CheckpointError, ConfigError, DataError
from hfseg.losses import Loss
from hfseg.models import Segmenter, Tapped, fingerprint, open_model
from hfseg.models.tapped import feature_width
from hfseg.recipes.console import say
from hfseg.recipes.run import FinetuneConfig, RunFolder
from hfseg.recipes.scoring import AnyDataset, check_same_classes
from hfseg.sizes import scaled_size
from hfseg.values import Batch, SegOutput, TappedOutput


@dataclass(frozen=True)
class Teacher:
    """A model that is asked and never moves: without gradients, in evaluation mode, wrapped by nothing."""

    name: str
    model: Tapped
    fingerprint: str
    runtime: Runtime
    cache: LogitCache | None = None

    def __call__(self, pixel_values: Shaped[Tensor, "b *t 3 h w"]) -> TappedOutput:
        """Say what it sees, in the precision in which the student computes; of a clip, an image model sees the last
        frame.
        """
        takes_clips = self.model.segmenter.memory_frames is not None
        shown = pixel_values if takes_clips or pixel_values.ndim == 4 else pixel_values[:, -1]
        return self._answer(shown) if self.cache is None else TappedOutput(SegOutput(self._kept(shown, self.cache)))

    def _answer(self, pixel_values: Tensor) -> TappedOutput:
        with torch.no_grad(), self.runtime.accelerator.autocast():
            answer: TappedOutput = self.model(pixel_values)
            return answer

    def _kept(self, pixel_values: Tensor, cache: LogitCache) -> Float[Tensor, "b k h w"]:
        """Find logits in the cache; ask, and keep the answer, where they are not there."""
        keys = [pixel_key(each) for each in pixel_values]
        found = {key: cache.read(key) for key in keys}
        missing = [place for place, key in enumerate(keys) if found[key] is None]
        if missing:
            answers = self._answer(pixel_values[missing]).output.logits
            found |= {keys[place]: cache.write(keys[place], one) for place, one in zip(missing, answers, strict=True)}
        return torch.stack([found[key] for key in keys]).to(pixel_values.device)

    def keep(self, folder: RunFolder) -> None:
        """Write down which weights teach a run."""
        write_file(folder.teacher, json.dumps({"teacher": self.name, "fingerprint": self.fingerprint}, indent=2))

    def check(self, folder: RunFolder) -> None:
        """See that these weights taught a run from its start.

        Raises:
            CheckpointError: other weights did.
        """
        found = json.loads(folder.teacher.read_text(encoding="utf-8"))["fingerprint"]
        if found != self.fingerprint:
            raise CheckpointError(
                f"teacher `{self.name}` is not what it was when run `{folder.path}` started: its fingerprint is "
                f"`{self.fingerprint}`, expected `{found}`",
                hint="put the teacher's old weights back, or start another run",
            )


@dataclass(frozen=True)
class Objective:
    """What is trained, and by which loss; `depths` are those of its parameters, where rates differ by depth."""

    model: nn.Module
    loss_fn: LossFn
    depths: Mapping[str, int] | None


def open_teacher(config: FinetuneConfig, train: AnyDataset, runtime: Runtime) -> Teacher | None:
    """Open the teacher of a run; None where it has none.

    Raises:
        ModelError: there is no such model.
        DataError: it has other classes than the data.
        ConfigError: its logits were to be kept, and none would be met again.
        CheckpointError: the folder of kept logits holds those of something else.
    """
    distill = config.distill
    if distill.teacher is None:
        return None
    segmenter, classes = open_model(distill.teacher)
    try:
        check_same_classes(classes, train.labels, name=distill.teacher, use="teach")
    except DataError as error:
        hint = "teacher and data need the same classes in the same order: fine-tune the teacher on this data first"
        raise DataError(f"the teacher does not fit: {error.message}", hint=hint) from None
    word = fingerprint(segmenter)
    cache = None if distill.cache is None else _open_cache(distill.cache, config, train, runtime, teacher=word)
    runtime.ready(segmenter)
    model = Tapped(segmenter.requires_grad_(False), taps=distill.needs_features).to(runtime.device).eval()
    return Teacher(distill.teacher, model, word, runtime, cache)


def _open_cache(
    folder: Path, config: FinetuneConfig, train: AnyDataset, runtime: Runtime, *, teacher: str
) -> LogitCache:
    """Open the folder of kept logits, which the main process makes."""
    _check_whole(config, train)
    keep, count = config.distill.cache_classes, train.labels.num_labels
    if keep is not None and 2 * keep + 1 >= count:
        raise ConfigError(
            f"`distill.cache_classes` saves nothing: {keep} take {2 * keep + 1} bytes a place, "
            f"all {count} take {count}",
            hint="leave it out, or keep fewer",
        )

    def opened() -> LogitCache:
        facts = {"teacher": teacher, "precision": config.runtime.precision}
        return LogitCache(folder, facts, keep=keep)

    runtime.on_main(opened)
    return opened()


def make_objective(
    config: FinetuneConfig, segmenter: Segmenter, loss: Loss, teacher: Teacher | None, runtime: Runtime
) -> Objective:
    """Say what is trained: the segmenter on labels alone, or one that learns from a teacher too."""
    differs, by = config.optim.differs_by_depth, config.optim.layer_decay_by
    if teacher is None:
        return Objective(segmenter, _by_labels(loss), segmenter.depths(by=by) if differs else None)
    distill = config.distill
    width = feature_width(teacher.model.segmenter.hf) if distill.feature else None
    student = Tapped(segmenter, taps=distill.needs_features, width=width, seed=config.seed)
    teaching = distill.build(ignore_index=loss.ignore_index)
    watch = Stopwatch(runtime.device, tell=_told(teacher, runtime))

    def loss_fn(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        seen: TappedOutput = model(batch.pixel_values)
        with watch.running():
            told = teacher(batch.pixel_values)
        by_labels, learned = loss(seen.output, batch.labels), teaching(seen, told, batch.labels)
        total = by_labels.pop("total") + teaching.total(learned)
        return {**by_labels, **learned, **watch.terms("teacher"), "total": total}

    return Objective(student, loss_fn, student.depths(by=by) if differs else None)


def _by_labels(loss: Loss) -> LossFn:
    def loss_fn(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return loss(model(batch.pixel_values), batch.labels)

    return loss_fn


def _told(teacher: Teacher, runtime: Runtime) -> Callable[[float, float], None]:
    """Say what the teacher costs, in the main process."""

    def tell(ms: float, share: float) -> None:
        if runtime.is_main:
            say(f"teacher `{teacher.name}`: {ms:,.1f} ms a batch, {100 * share:.0f} % of the time of a step")

    return tell


def _check_whole(config: FinetuneConfig, train: AnyDataset) -> None:
    """See that crops hold whole images, so that nothing is left to chance in them.

    Raises:
        ConfigError: they do not, or nobody knows.
    """
    hint = "leave out `distill.cache`, or give an `augment.crop_size` that holds every image"
    if isinstance(train, StreamDataset):
        raise ConfigError("`distill.cache` needs to know the size of every image: the data set is streamed", hint=hint)
    augment = config.augment
    full = {scaled_size(size, short_side=augment.short_side, scale=augment.scale[1]) for size in train.image_sizes}
    height, width = max(size[0] for size in full), max(size[1] for size in full)
    if height > augment.crop[0] or width > augment.crop[1]:
        raise ConfigError(
            f"`distill.cache` would never meet a crop again: crops are {augment.crop[0]} x {augment.crop[1]} (height x "
            f"width), images up to {height} x {width}",
            hint=hint,
        )
