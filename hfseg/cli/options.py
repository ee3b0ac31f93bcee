"""Flags that several commands share, as fields of a dataclass, and how a command gets them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

DATA, MODEL, TRAIN, INFERENCE, RUN, VIDEO = "Data", "Model", "Training", "Inference", "Run", "Video"
"""The panels of the help."""


def option(*names: str, panel: str, **settings: Any) -> Any:
    """Describe a flag; `names` only where it is not called like its field."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag for each field of those of its parameters that are dataclasses."""
    signature = inspect.signature(command)
    holders: dict[str, Any] = {
        p.name: p.annotation for p in signature.parameters.values() if is_dataclass(p.annotation)
    }

    @wraps(command)
    def spread_command(**given: Any) -> Any:
        for name, holder in holders.items():
            given[name] = holder(**{field.name: given.pop(field.name) for field in fields(holder)})
        return command(**given)

    flat = [
        flag for parameter in signature.parameters.values() for flag in _flags(parameter, holders.get(parameter.name))
    ]
    spread_command.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    return spread_command


def _flags(parameter: inspect.Parameter, holder: Any) -> list[inspect.Parameter]:
    """The parameter itself, or one for each field of the dataclass that it holds."""
    if holder is None:
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    hints = get_type_hints(holder, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, kind, default=f.default, annotation=hints[f.name]) for f in fields(holder)]


@dataclass(frozen=True)
class SettingOptions:
    """What every command takes that has settings."""

    sets: Annotated[
        list[str] | None,
        option("--set", panel=RUN, metavar="KEY=VALUE", help="Any setting by its name; may be repeated."),
    ] = None
    as_json: Annotated[bool, option("--json", panel=RUN, help="Print the result as JSON.")] = False
    debug: Annotated[bool, option("--debug", panel=RUN, help="Show the traceback of an error.")] = False


@dataclass(frozen=True)
class RunOptions(SettingOptions):
    """What every command takes that computes something."""

    cpu: Annotated[bool, option("--cpu", panel=RUN, help="Compute on the CPU.")] = False


@dataclass(frozen=True)
class SourceOptions:
    """Where images and masks are, and what their classes are."""

    dataset: Annotated[
        str | None,
        option(
            panel=DATA,
            help="demo, folder, frames, ade20k, ade20k-4, cityscapes, camvid, voc, coco-stuff, shards or hub:NAME "
            "(default: demo; of an evaluation, the run's own)",
        ),
    ] = None
    data_dir: Annotated[
        Path | None, option(panel=DATA, help="Folder or zip of the data set, or of images and masks.")
    ] = None
    classes: Annotated[
        str | None, option(panel=DATA, help="Class names: a,b,c, a file that lists them, or camvid's 11, 12 or 32.")
    ] = None


@dataclass(frozen=True)
class DataOptions(SourceOptions):
    """A data set, and how it is read."""

    workers: Annotated[int | None, option(panel=DATA, help="Processes that read data (default: 2)")] = None


@dataclass(frozen=True)
class ProtocolOptions:
    """How a model is shown an image."""

    protocol: Annotated[
        str | None,
        option(panel=INFERENCE, help="whole, slide or squash (default: the run's own, else whole)"),
    ] = None
    short_side: Annotated[
        int | None,
        option(
            panel=INFERENCE, help="Bring images to this short side, in pixels (default: the run's own, else native)"
        ),
    ] = None
    scales: Annotated[
        str | None, option(panel=INFERENCE, help="Average over these scales, as in 0.5,0.75,1,1.25,1.5,1.75.")
    ] = None
    flip: Annotated[
        bool | None, option("--flip/--no-flip", panel=INFERENCE, help="Average over the image and its mirror image.")
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """What a run is made of."""

    short_side: Annotated[
        int | None, option(panel=DATA, help="Bring images to this short side, in pixels (default: native size)")
    ] = None
    crop_size: Annotated[
        str | None,
        option(panel=DATA, help="Training crop in pixels, 512 or 360x480 (height x width) (default: 512)"),
    ] = None
    model: Annotated[str | None, option(panel=MODEL, help="Whole segmentation checkpoint: Hub id, folder or run.")] = (
        None
    )
    decoder: Annotated[
        str | None, option(panel=MODEL, help="segformer, upernet, fusion or tmanet (default: what fits)")
    ] = None
    backbone: Annotated[
        str | None,
        option(
            panel=MODEL,
            help="Encoder: alias such as convnextv2-base, nat, dinat, fastervit or dinov2, timm:NAME, Hub id, folder.",
        ),
    ] = None
    attention: Annotated[
        str | None,
        option(
            panel=MODEL,
            help="How a frame reads those before it (tmanet): nonlocal, apnb, criss_cross, dual, apnb+afnb ... "
            "(default: nonlocal)",
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        option(
            panel=MODEL,
            help="Encoder weights: Hub id, folder, or none for random ones (default: the alias's checkpoint)",
        ),
    ] = None
    freeze: Annotated[
        list[str] | None,
        option(
            panel=MODEL,
            help="backbone, backbone.stages.0-2, all-but:decode_head.classifier, or a module glob; commas join, and "
            "it may be repeated.",
        ),
    ] = None
    adapter: Annotated[
        str | None, option(panel=MODEL, help="lora: train small matrices beside a frozen encoder's linear layers.")
    ] = None
    loss: Annotated[
        str | None,
        option(panel=TRAIN, help="ce, ohem, focal, dice, tversky, lovasz, boundary, or ce+0.5*dice (default: ce)"),
    ] = None
    teacher: Annotated[
        str | None,
        option(panel=TRAIN, help="Learn from this model too: run folder, model folder or Hub id (default: none)"),
    ] = None
    epochs: Annotated[float | None, option(panel=TRAIN, help="Passes over the data (default: 50)")] = None
    steps: Annotated[int | None, option(panel=TRAIN, help="Optimizer steps, instead of --epochs.")] = None
    batch_size: Annotated[int | None, option(panel=TRAIN, help="Images a step and process (default: 8)")] = None
    lr: Annotated[float | None, option(panel=TRAIN, help="Peak learning rate (default: 6e-5)")] = None
    precision: Annotated[str | None, option(panel=TRAIN, help="no, bf16 or fp16 (default: no)")] = None
    compiled: Annotated[bool, option("--compile", panel=TRAIN, help="Compile the model.")] = False
    seed: Annotated[int | None, option(panel=TRAIN, help="Seed of everything random (default: 0)")] = None
    config: Annotated[str | None, option(panel=RUN, help="YAML file, or the name of a packaged recipe.")] = None
