"""Freezing: no gradient, no moving statistics, no dropout, named by patterns."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.models import anatomy
from hfseg.models.adapter import held_norms
from hfseg.models.segmenter import Segmenter

ALL_BUT = "all-but:"
RANGE = re.compile(r"(\d+)-(\d+)")


class FreezeStage(Config):
    """What stays as it is while the rest is trained."""

    modules: tuple[str, ...] = ()
    """Patterns: `backbone`, `backbone.stages.0-2`, `backbone.stem`, `head`, `classifier`, a module name with wildcards,
    or `all-but:` and one of these."""
    until_step: PositiveInt | None = None
    """Optimizer step at which this ends: with what `then` holds, or everything is trained; unset is the whole run."""

    @field_validator("modules", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        texts = value.split(",") if isinstance(value, str) else value
        return tuple(text.strip() for text in texts if text.strip()) if isinstance(texts, list) else texts

    @model_validator(mode="after")
    def _used(self) -> "FreezeStage":
        if self.until_step is not None and not self.modules:
            raise ValueError("`until_step` has no effect without `modules`\n\nhint: say what to freeze, with --freeze")
        return self


class FreezeConfig(FreezeStage):
    """What stays as it is while the rest is trained, and what of it is set free one stage after the other."""

    then: tuple[FreezeStage, ...] = Field(
        default=(), examples=[[{"modules": ["backbone.stages.0-2"], "until_step": 2000}]]
    )
    """What stays frozen after `until_step`, each stage until its own, for instance fewer stages each time."""

    @model_validator(mode="after")
    def _one_after_the_other(self) -> "FreezeConfig":
        steps = [stage.until_step for stage in (self, *self.then)]
        ends = [step for step in steps[:-1] if step is not None]
        if len(ends) != len(steps) - 1 or any(one >= other for one, other in pairwise(steps) if one and other):
            raise ValueError(
                f"`then` needs an `until_step` before it, each later than the last one: got {steps}\n\n"
                "hint: only the last stage may go on to the end of the run"
            )
        return self

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which something else is frozen than before."""
        return tuple(stage.until_step for stage in (self, *self.then) if stage.until_step is not None)

    def patterns(self, step: int) -> tuple[str, ...]:
        """Give what is frozen when optimizer step `step`, counted from 0, is taken."""
        stages = (stage for stage in (self, *self.then) if stage.until_step is None or step < stage.until_step)
        return next((stage.modules for stage in stages), ())


def freeze(segmenter: Segmenter, patterns: Sequence[str]) -> None:
    """Freeze the modules that match, and no others; what was frozen before is let go first.

    A pattern freezes every module it matches, with all inside. `backbone` is the encoder and `head` all the rest,
    whatever the class calls them; a neck (`backbone.neck`) belongs to the rest. `backbone.stages.A-B` counts the
    encoder's stages from 0 (four in a pyramid, one per block in plain transformers and MobileNetV2); a range from 0
    takes the stem (`backbone.stem`) with it, the norms that a decoder needs on each map stay free. `classifier` is the
    last layer of every head. `all-but:NAME` freezes all but that module: `all-but:decode_head.classifier` freezes the
    auxiliary head whole, `all-but:classifier` frees both classifiers. Several `all-but:` keep all that they name.

    Raises:
        ModelError: a pattern matches nothing, or nothing would be left to train. The model is then as it was.
    """
    hf = segmenter.hf
    modules, parameters = _selection(hf, patterns)
    trained = {name for name, parameter in hf.named_parameters() if parameter.requires_grad}
    if not (trained | set(segmenter.frozen_parameters)) - parameters:
        raise ModelError(
            f"freezing {', '.join(f'`{pattern}`' for pattern in patterns)} leaves nothing to train",
            hint="freeze less, for instance `backbone`",
        )
    unfreeze(segmenter)
    switched = tuple(name for name, p in hf.named_parameters() if name in parameters and p.requires_grad)
    for name in switched:
        hf.get_parameter(name).requires_grad_(False)
    segmenter.frozen_modules = tuple(name for name, _ in hf.named_modules() if name in modules | {*held_norms(hf)})
    segmenter.frozen_parameters = switched
    segmenter.train(segmenter.training)


def unfreeze(segmenter: Segmenter) -> None:
    """Let go of everything that `freeze` took; what is fixed beside adapters stays so."""
    for name in segmenter.frozen_parameters:
        segmenter.hf.get_parameter(name).requires_grad_(True)
    segmenter.frozen_modules, segmenter.frozen_parameters = held_norms(segmenter.hf), ()
    segmenter.train(segmenter.training)


def parameter_table(segmenter: Segmenter) -> list[dict[str, str | int]]:
    """Count parameters, one row per part: stem, stages and rest of the encoder, then each head; `trainable` of `total`.

    The rows hold every parameter once.
    """
    hf = segmenter.hf
    encoder = anatomy.encoder_name(hf)
    parts = [*anatomy.stem(hf), *anatomy.stages(hf), encoder, *anatomy.head_names(hf)]
    if len(anatomy.stages(hf)) > 8:  # one row per block is too long to read
        parts = [*anatomy.stem(hf), encoder, *anatomy.head_names(hf)]
    rows: dict[str, dict[str, str | int]] = {part: {"module": part, "total": 0, "trainable": 0} for part in parts}
    for name, parameter in hf.named_parameters():
        part = max((part for part in parts if _inside(name, [part])), key=len, default="")
        row = rows.setdefault(part, {"module": part or "(top)", "total": 0, "trainable": 0})
        row["total"] = int(row["total"]) + parameter.numel()
        row["trainable"] = int(row["trainable"]) + (parameter.numel() if parameter.requires_grad else 0)
    return [row for row in rows.values() if row["total"]]


def _selection(hf: Any, patterns: Sequence[str]) -> tuple[set[str], set[str]]:
    """The names of the modules and of the parameters that the patterns freeze."""
    names = [name for name, _ in hf.named_modules() if name]
    owners = {name: name.rpartition(".")[0] for name, _ in hf.named_parameters()}
    kept = [pattern.removeprefix(ALL_BUT) for pattern in patterns if pattern.startswith(ALL_BUT)]
    taken = _matches(hf, names, [pattern for pattern in patterns if not pattern.startswith(ALL_BUT)])
    modules = {name for name in names if _inside(name, taken)}
    parameters = {name for name, owner in owners.items() if owner in modules}
    if kept:
        free = _matches(hf, names, kept)
        modules |= {name for name in names if not _inside(name, free) and not _around(name, free)}
        parameters |= {name for name, owner in owners.items() if not _inside(owner, free)}
    return modules, parameters


def _matches(hf: Any, names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    return [name for pattern in patterns for name in _match(hf, names, pattern)]


def _match(hf: Any, names: Sequence[str], pattern: str) -> list[str]:
    """The modules that one pattern names."""
    if pattern == "head":
        return list(anatomy.head_names(hf))
    if pattern == "classifier":
        return list(anatomy.classifiers(hf))
    encoder = anatomy.encoder_name(hf)
    first, _, rest = pattern.partition(".")
    if first == anatomy.BACKBONE and rest == "stem" and anatomy.stem(hf):
        return list(anatomy.stem(hf))
    if first == anatomy.BACKBONE and rest.startswith("stages."):
        return _stages(hf, names, pattern, rest.removeprefix("stages."))
    inside = [f"{encoder}{pattern.removeprefix(first)}"] if first == anatomy.BACKBONE else []
    written = [] if pattern == anatomy.BACKBONE else [pattern]
    tries = ([name for name in names if fnmatchcase(name, each)] for each in (*inside, *written))
    found = next((names for names in tries if names), None)
    if not found:
        raise _nothing(hf, names, pattern)
    return found


def _stages(hf: Any, names: Sequence[str], pattern: str, rest: str) -> list[str]:
    """The modules of `backbone.stages.<index or range>[.<inner name>]`."""
    stages = anatomy.stages(hf)
    index, dot, inner = rest.partition(".")
    span = RANGE.fullmatch(index)
    low, high = (int(span[1]), int(span[2])) if span else (int(index), int(index)) if index.isdigit() else (-1, -1)
    if not 0 <= low <= high < len(stages):
        raise ModelError(
            f"freeze pattern `{pattern}` names stages that are not there: the encoder has {len(stages)}",
            hint=f"they count from 0, so the whole encoder is backbone.stages.0-{len(stages) - 1}, or `backbone`",
        )
    if dot:
        found = [name for stage in stages[low : high + 1] for name in names if fnmatchcase(name, f"{stage}.{inner}")]
        if not found:
            raise _nothing(hf, names, pattern)
        return found
    with_stem = anatomy.stem(hf) if low == 0 else ()
    return [*with_stem, *stages[low : high + 1]]


def _nothing(hf: Any, names: Sequence[str], pattern: str) -> ModelError:
    close = difflib.get_close_matches(pattern.replace("*", ""), names, n=3, cutoff=0.4)
    known = ", ".join(["backbone", "backbone.stages.0-2", "head", *(name for name, _ in hf.named_children())])
    guess = f"did you mean {' or '.join(f'`{name}`' for name in close)}? " if close else ""
    return ModelError(f"freeze pattern `{pattern}` matches no module", hint=f"{guess}known are {known}")


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _around(name: str, modules: Iterable[str]) -> bool:
    return any(module.startswith(f"{name}.") for module in modules)
