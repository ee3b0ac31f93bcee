"""What somebody who has trained such models before would say about a data set and a configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.nn.modules.batchnorm import _BatchNorm

from hfseg.data import AugmentConfig
from hfseg.data.census import Census
from hfseg.data.duplicates import Overlap
from hfseg.engine.dry_run import DryRun, Estimate
from hfseg.engine.machine import FAST_BF16, GIB, cpu_flags
from hfseg.engine.plan import Plan
from hfseg.engine.runtime import Runtime
from hfseg.models import Segmenter
from hfseg.recipes.run import FinetuneConfig

RARE = 0.01
"""A class is rare with less than this part of the pixels of the most frequent one."""
MOSTLY = 0.5
SMALL_BATCH = 4
"""Images below which the statistics of a batch norm are noise."""
LEFT_OUT, WAITING, FULL = 0.1, 0.1, 0.9
_SHOWN = 5


@dataclass(frozen=True)
class Advice:
    """Something that does not stop a run, and that one wants to know before it."""

    message: str
    hint: str | None = None


def about_overlaps(overlaps: tuple[Overlap, ...]) -> Iterator[Advice]:
    """Speak of pictures that stand in two parts, and of files that stand twice in one."""
    for found in overlaps:
        if found.part != found.among and found.twins:
            same = f", {found.num_same_files} of them the same file" if found.num_same_files else ""
            yield Advice(
                f"{len(found.twins)} of {found.num_images} {found.part} images have a near duplicate in "
                f"{found.among}{same}: scores on them do not tell what happens on new images",
                "split by scene, patient or film, not by image",
            )
        elif found.num_same_files:
            twin = found.twins[0]
            yield Advice(
                f"files that stand twice in {found.part}: {found.num_same_files}; `{twin.image}` is `{twin.twin}`",
                "see whether their masks agree, and take one of each away",
            )


def about_classes(parts: Mapping[str, Census]) -> Iterator[Advice]:
    """Speak of classes that are absent or rare, and of labels that are mostly ignored."""
    for part, found in parts.items():
        if found.absent:
            yield Advice(
                f"{part} holds no pixel of {_few([f'`{name}`' for name in found.absent])}", _ABSENT_HINTS.get(part)
            )
        if found.ignored_share > MOSTLY:
            yield Advice(
                f"{100 * found.ignored_share:.1f} % of the pixels of {part} are ignored",
                "see whether a class is among the ignored values",
            )
    train = parts.get("train")
    if train is None:
        return
    present = sorted((count for count in train.classes if count.pixels), key=lambda count: count.pixels)
    rare = [count for count in present if count.pixels < RARE * present[-1].pixels]
    if rare:
        names = _few([f"`{count.name}` ({100 * count.share:.2g} %)" for count in rare])
        yield Advice(
            f"classes with less than {100 * RARE:g} % of the pixels of `{present[-1].name}`: {names}",
            "--set data.rare_class_crop=true, or --loss ce+dice",
        )


def about_sizes(parts: Mapping[str, Census], augment: AugmentConfig) -> Iterator[Advice]:
    """Speak of crops that are larger than the training images."""
    train = parts.get("train")
    if train is None:
        return
    height, width = augment.crop
    smaller = 0
    for (image_height, image_width), images in train.sizes.items():
        factor = 1.0 if augment.short_side is None else augment.short_side / min(image_height, image_width)
        fits = round(image_height * factor) >= height and round(image_width * factor) >= width
        smaller += 0 if fits else images
    if smaller:
        yield Advice(
            f"the crop of {height} x {width} is larger than {smaller} of {train.images} training images at scale 1: "
            "the rest of it is padding",
            "make `--crop-size` smaller, or `--short-side` larger",
        )


def about_length(
    config: FinetuneConfig, plan: Plan, batches_per_epoch: int | None, num_train: int | None
) -> Iterator[Advice]:
    """Speak of batches not settled yet, of short epochs and the samples they leave out, and of too long a warm-up."""
    accumulation, batch_size = config.train.accumulation, config.loader.batch_size
    if config.optim.auto_batch:
        yield Advice(
            f"`optim.auto_batch` will look for the largest batch at the start of the run: batches of {batch_size} were "
            f"tried here, and memory and time are those of them; a step stays at {batch_size * accumulation} images"
        )
    if batches_per_epoch is not None and num_train is not None:
        left_out = num_train - batches_per_epoch * batch_size
        if left_out > LEFT_OUT * num_train:
            yield Advice(
                f"{left_out} of {num_train} training images are left out of each epoch (others each time): "
                f"they do not fill a batch of {batch_size}",
                "choose a `--batch-size` of which the number of images is nearly a multiple",
            )
        if accumulation > batches_per_epoch:
            yield Advice(
                f"a step takes {accumulation} batches and an epoch has {batches_per_epoch}",
                "make `train.accumulation` smaller",
            )
    warmup = config.optim.warmup_steps
    if warmup is not None and warmup >= plan.num_steps:
        yield Advice(
            f"the warm-up of {warmup} steps is not over when the run is, after {plan.num_steps}: "
            f"the learning rate never reaches {config.optim.lr:g}",
            "make `optim.warmup_steps` smaller",
        )


def about_model(segmenter: Segmenter, config: FinetuneConfig) -> Iterator[Advice]:
    """Speak of weights that are random, and of batch norms that see few images."""
    counts = {name: parameter.numel() for name, parameter in segmenter.hf.named_parameters()}
    new = sum(counts[name] for name in segmenter.new_parameters)
    if new > MOSTLY * sum(counts.values()):
        yield Advice(
            f"{new:,} of {sum(counts.values()):,} parameters start from random weights",
            "give a checkpoint with `--pretrained` or `--model`; from nothing, hundreds of epochs are needed",
        )
    norms = sum(isinstance(module, _BatchNorm) and module.training for module in segmenter.hf.modules())
    if norms and config.loader.batch_size < SMALL_BATCH:
        yield Advice(
            f"batch norms that are trained on {config.loader.batch_size} images at a time: {norms}; "
            "their statistics will be noisy",
            f"--batch-size {SMALL_BATCH} or more; gradient accumulation does not help here",
        )


def about_cost(run: DryRun, cost: Estimate, runtime: Runtime) -> Iterator[Advice]:
    """Speak of waiting for data, of memory that is nearly full, of emulated precision and of costly validation."""
    if runtime.device.type != "cpu" and cost.waiting_s > WAITING * cost.training_s:
        share = 100 * cost.waiting_s / cost.training_s
        yield Advice(
            f"the device will wait for data {share:.0f} % of the training time", "more `--workers`, or smaller files"
        )
    if run.memory.peak > FULL * run.memory.limit:
        yield Advice(
            f"{run.memory.peak / GIB:.2f} of {run.memory.limit / GIB:.2f} GiB of memory are taken",
            "make `--batch-size` or `--crop-size` smaller",
        )
    if runtime.device.type == "cpu" and runtime.config.precision == "bf16" and not cpu_flags() & FAST_BF16:
        yield Advice("this CPU emulates bf16, many times slower than float32", "--precision no")
    if cost.validation_s > MOSTLY * cost.total_s:
        yield Advice(
            f"validations take {100 * cost.validation_s / cost.total_s:.0f} % of the run",
            "make `train.eval_every` larger",
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


_ABSENT_HINTS = {
    "train": "a model cannot learn them: see whether the classes are those of the masks",
    "validation": "their scores will be undefined, and the mean leaves them out",
}
