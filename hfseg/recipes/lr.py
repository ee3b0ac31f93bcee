"""`hfseg lr`: finds a learning rate for a run, by a short one whose weights are thrown away."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfseg.engine.lost import lost_processes_told
from hfseg.engine.lr_range import LrRange, LrSpan, lr_range
from hfseg.errors import ConfigError
from hfseg.recipes.console import progress
from hfseg.recipes.run import FinetuneConfig
from hfseg.recipes.training import build_model, check_sharding, make_task, open_data
from hfseg.viz.lr import lr_figure, lr_text
from hfseg.viz.style import write_png


@dataclass(frozen=True)
class LrResult:
    """What the loss said about learning rates."""

    found: LrRange
    picture: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Write everything as plain values."""
        found = self.found
        return {
            **asdict(found),
            "smoothed": found.smoothed,
            **{name: getattr(found, name) for name in ("lowest", "steepest", "suggested")},
            "picture": None if self.picture is None else str(self.picture),
        }

    def to_text(self) -> str:
        """Write the result for a person."""
        return lr_text(self.to_dict())


def run(config: FinetuneConfig, *, output: Path | None = None, span: LrSpan | None = None) -> LrResult | None:
    """Train on the data of a run with learning rates that rise from step to step; `output` gets the picture.

    Nothing else is written. `optim.lr` and its schedule do not count here, factors by depth and for heads do. Only the
    main process gives a result.

    Raises:
        ConfigError: `output` is there already, or is no PNG.
        HfsegError: a setting, the data or the model is not usable.
    """
    _check_output(output)
    runtime, span = config.runtime.start(), span or LrSpan()
    check_sharding(config, runtime)
    train, validation = open_data(config, runtime)
    task = make_task(config, build_model(config, train, runtime), train, validation, runtime)
    with progress(f"trying {span.steps} learning rates") as show, lost_processes_told():
        found = lr_range(task, config.optim, runtime, span, accumulation=config.train.accumulation, show=show)
    if not runtime.is_main:
        return None
    result = LrResult(found, output if found.losses else None)
    if result.picture is not None:
        result.picture.parent.mkdir(parents=True, exist_ok=True)
        write_png(lr_figure(result.to_dict()), result.picture)
    return result


def _check_output(output: Path | None) -> None:
    if output is not None and output.suffix.lower() != ".png":
        raise ConfigError(f"output `{output}` is no PNG file", hint="for instance --output lr.png")
    if output is not None and output.exists():
        raise ConfigError(f"output `{output}` exists already", hint="give another --output; nothing is overwritten")
