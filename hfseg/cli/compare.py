"""`hfseg compare`: several encoders and heads by one recipe, a study, or finished runs."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from hfseg.cli.app import app, say
from hfseg.cli.flags import FLAG_NAMES, RECIPES, Flags, given, model_flags, protocol_flags, recipe_path, training_flags
from hfseg.cli.options import (
    DATA,
    MODEL,
    RUN,
    TRAIN,
    DataOptions,
    ProtocolOptions,
    RunOptions,
    TrainingOptions,
    option,
    spread,
)
from hfseg.errors import ConfigError

if TYPE_CHECKING:
    from hfseg.recipes.compare import CompareConfig

UNUSED_BY_COSTS = ("loss", "epochs", "steps", "batch_size", "lr")
"""Options of a recipe that change nothing about what a model costs."""


@dataclass(frozen=True)
class MemberOptions:
    """What is compared."""

    study: Annotated[
        str | None, option(panel=RUN, help="YAML file of a study, or the name of a packaged one, as losses-study.")
    ] = None
    backbones: Annotated[str | None, option(panel=MODEL, help="Encoders, joined by commas: each is a member.")] = None
    decoders: Annotated[
        str | None, option(panel=MODEL, help="Heads, joined by commas: each over every encoder (default: what fits)")
    ] = None
    models: Annotated[
        str | None, option(panel=MODEL, help="Whole checkpoints, joined by commas: each is a member.")
    ] = None
    pretrained: Annotated[
        str | None, option(panel=MODEL, help="none: random encoder weights (default: each alias's checkpoint)")
    ] = None
    seeds: Annotated[
        str | None, option(panel=TRAIN, help="Seeds, as 0,1,2: each member once with each (default: 0)")
    ] = None


@dataclass(frozen=True)
class RecipeOptions:
    """How every member is trained."""

    config: Annotated[str | None, option(panel=TRAIN, help="Recipe of every member: YAML file or packaged name.")] = (
        None
    )
    crop_size: Annotated[str | None, option(panel=DATA, help="Training crop in pixels, 512 or 360x480.")] = None
    loss: Annotated[str | None, option(panel=TRAIN, help="As of `hfseg finetune` (default: ce)")] = None
    epochs: Annotated[float | None, option(panel=TRAIN, help="Passes over the data (default: 50)")] = None
    steps: Annotated[int | None, option(panel=TRAIN, help="Optimizer steps, instead of --epochs.")] = None
    batch_size: Annotated[int | None, option(panel=TRAIN, help="Images a step and process (default: 8)")] = None
    lr: Annotated[float | None, option(panel=TRAIN, help="Peak learning rate (default: 6e-5)")] = None


@app.command(epilog="Example: hfseg compare --data-dir my-images --backbones convnextv2-tiny,dinat-mini --seeds 0,1,2")
@spread
def compare(
    data: DataOptions,
    protocol: ProtocolOptions,
    members: MemberOptions,
    recipe: RecipeOptions,
    run: RunOptions,
    runs: Annotated[list[Path] | None, typer.Argument(help="Finished runs, beside or in the place of members.")] = None,
    split: Annotated[
        str | None, option(panel=DATA, help="validation or test (default: test where it has labels, else validation)")
    ] = None,
    launcher: Annotated[
        str | None, option(panel=RUN, help="Starts each training, as in 'accelerate launch --multi_gpu'.")
    ] = None,
    output: Annotated[
        Path | None, option("--output", "-o", panel=RUN, help="Folder of the study (default: runs/compare)")
    ] = None,
    resume: Annotated[bool, option("--resume", panel=RUN, help="Go on with the study in --output.")] = False,
    costs: Annotated[
        bool, option("--costs", panel=RUN, help="Only what members cost: random weights, no training, no images.")
    ] = False,
) -> None:
    """Compare encoders and heads by one recipe: scores with intervals and verdicts, cost, one table and one page."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read with torch; else its profiler says that it starts
    named = _members(members, is_free=recipe.config is None)
    if costs:
        _check_costs(recipe, {"RUNS": runs, "--seeds": members.seeds, "--split": split, "--launcher": launcher})
    path = _study_path(members.study, output if resume else None)
    trains = bool(named) or path is not None
    base = _base(recipe, data, protocol, run, path=path, trains=trains, has_members=bool(named))
    shared = {"seeds": None if members.seeds is None else _numbers(members.seeds)}
    if trains:
        shared |= {f"base.{key}": value for key, value in base.items()}
    flags = given(
        {
            "study.members": named or None,
            **_protocol(protocol, runs, trains=trains),
            "runs": [str(path) for path in runs or ()] or None,
            "split": split,
            "launcher": launcher,
            "costs_only": costs or None,
            "output": None if output is None else str(output),
            "runtime.cpu": run.cpu or None,
        }
    )

    from hfseg.recipes import compare as verb

    settings = _settings(path, flags, given(shared), run.sets or ())
    result = verb.run(settings, resume=resume)
    typer.echo(json.dumps(result.comparison) if run.as_json else result.to_text())
    say(f"page: {result.page}")
    if result.has_failures:
        raise typer.Exit(1)


def _settings(path: Path | None, flags: Flags, shared: Flags, sets: Sequence[str]) -> "CompareConfig":
    """Resolve a comparison; what is `shared` by all members holds at the scale that is chosen, whatever the scale says.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    from hfseg.recipes.compare import CompareConfig

    def load(*prefixes: str) -> "CompareConfig":
        of_study = {f"{prefix}.{key}": value for prefix in prefixes for key, value in shared.items()}
        return CompareConfig.load(yaml_path=path, flags={**flags, **of_study}, sets=sets, flag_names=FLAG_NAMES)

    settings = load("study")
    scale = settings.study.scale
    return load("study", f"study.scales.{scale}") if scale in settings.study.scales else settings


def _check_costs(recipe: RecipeOptions, others: Flags) -> None:
    """Refuse, beside --costs, what only training and scoring would use.

    Raises:
        ConfigError: it was given; names it.
    """
    training = {f"--{name.replace('_', '-')}": getattr(recipe, name) for name in UNUSED_BY_COSTS}
    found = list(given(training | others))
    if found:
        raise ConfigError(
            f"--costs trains and scores nothing: got {', '.join(found)} as well", hint="leave them out, or --costs"
        )


def _base(
    recipe: RecipeOptions,
    data: DataOptions,
    protocol: ProtocolOptions,
    run: RunOptions,
    *,
    path: Path | None,
    trains: bool,
    has_members: bool,
) -> Flags:
    """Give the settings of every member; where members come from flags and no study has a base, over the recipe's.

    Raises:
        ConfigError: there are settings and nothing that they would train, or a recipe beside a study.
    """
    if path is not None and recipe.config is not None:
        raise ConfigError(
            f"study `{path}` has a base of its own: got --config {recipe.config} as well",
            hint="--set study.base.KEY=VALUE",
        )
    short_side = protocol.short_side if trains else None
    start = recipe.config or (None if path is None else str(path))
    flags = training_flags(TrainingOptions(**{**vars(recipe), "config": start}, short_side=short_side), data, run)
    if not trains and flags.keys() - {"runtime.cpu"}:
        raise ConfigError(f"there is nothing to train: got {', '.join(flags)} and no members", hint="--backbones a,b")
    return {**_recipe(recipe_path(recipe.config, flags)), **flags} if has_members and path is None else flags


def _members(options: MemberOptions, *, is_free: bool) -> dict[str, Flags]:
    """Name what every member is made of: each encoder under each head, and each whole checkpoint.

    Where they are `is_free` of a recipe, encoders have their own weights and not those of the demo's encoder.
    """
    backbones, decoders, pretrained = options.backbones, options.decoders, options.pretrained
    if decoders is not None and backbones is None:
        raise ConfigError(f"--decoders needs encoders: got {decoders} and no --backbones", hint="--backbones a,b")
    found = {
        f"{decoder}-{name}" if decoder else name: TrainingOptions(backbone=name, decoder=decoder, pretrained=pretrained)
        for name in _split(backbones)
        for decoder in (*_split(decoders), *([] if decoders else [None]))
    }
    found |= {name: TrainingOptions(model=name) for name in _split(options.models)}
    members: dict[str, Flags] = {}
    for name, member in found.items():
        flags = given(model_flags(member))
        own = {"model.pretrained": None} if is_free and member.model is None else {}
        members.setdefault(_slug(name), {**own, **flags})
    if len(members) < len(found):
        raise ConfigError(
            f"members need names of their own: got {', '.join(map(_slug, found))}", hint="name them in a --study"
        )
    return members


def _protocol(options: ProtocolOptions, runs: list[Path] | None, *, trains: bool) -> Flags:
    """How all models are shown images, over the first run's own protocol; a short side alone is one of training too."""
    flags = given(protocol_flags(options))
    if not flags or (trains and set(flags) == {"protocol.short_side"}):
        return {}
    from hfseg.recipes.run import protocol_settings

    return {**protocol_settings(str(runs[0]) if runs else None, options.protocol), **flags}


def _slug(name: str) -> str:
    """Make a member's name of an encoder's: the last part of a path or Hub id, without what a name cannot hold."""
    last = name.rstrip("/").rpartition("/")[2] if "/" in name else name
    return "".join(letter if letter.isalnum() or letter in "_+-" else "_" for letter in last)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    if not all(part.isdigit() for part in _split(text)):
        raise ConfigError(f"--seeds `{text}` are not whole numbers", hint="0,1,2")
    return [int(part) for part in _split(text)]


def _recipe(path: Path | None) -> dict[str, Any]:
    """Read the recipe that members start from."""
    if path is None:
        return {}
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"config `{path}` cannot be read: {error}", hint="give the path of a YAML file") from None


def _study_path(study: str | None, resumed: Path | None) -> Path | None:
    """Find the YAML of a study: the one that was named, or that of the study that goes on."""
    if study is not None:
        packaged = RECIPES / f"{study}.yaml"
        return packaged if packaged.is_file() and not Path(study).exists() else Path(study)
    own = None if resumed is None else resumed / "study.yaml"
    return own if own is not None and own.is_file() else None
