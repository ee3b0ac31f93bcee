"""From flags to the settings that they stand for: dotted key -> value."""

import os
from pathlib import Path
from typing import Any

from hfseg.cli.options import DataOptions, ProtocolOptions, RunOptions, SourceOptions, TrainingOptions
from hfseg.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "configs"

Flags = dict[str, Any]
FLAG_NAMES = {
    "adapter.kind": "--adapter",
    "corruptions.names": "--corruptions",
    "data.kind": "--dataset",
    "data.name": "--dataset",
    "explanation.backbones": "--backbone",
    "explanation.kind": "--kind",
    "explanation.label": "--class",
    "explanation.layers": "--layer",
    "explanation.stages": "--layer",
    "freeze.modules": "--freeze",
    "loader.eval_batch_size": "--batch-size",
    "loss.terms": "--loss",
    "model.attention.kind": "--attention",
    "model.checkpoint": "--model",
    "model.kind": "--decoder",
    "protocol.kind": "--protocol",
    "video.view": "--video-view",
}
"""The flags that are not called like their settings."""


def given(flags: Flags) -> Flags:
    """Leave out what was not given."""
    return {key: value for key, value in flags.items() if value is not None}


def training_flags(options: TrainingOptions, data: DataOptions, run: RunOptions) -> Flags:
    """Everything that a run is made of."""
    flags = given(
        {
            **data_flags(data, default=None if options.config else "folder"),
            **model_flags(options),
            "augment.short_side": options.short_side,
            "augment.crop_size": _size(options.crop_size),
            "loader.batch_size": options.batch_size,
            "adapter.kind": options.adapter,
            "freeze.modules": ",".join(options.freeze) if options.freeze else None,
            "loss.terms": options.loss,
            "distill.teacher": options.teacher,
            "optim.lr": options.lr,
            "runtime.precision": options.precision,
            "runtime.compile": options.compiled or None,
            "runtime.cpu": run.cpu or None,
            "seed": options.seed,
        }
    )
    if "model.backbone" in flags and options.config is None:  # the demo's random weights are those of its own encoder
        flags.setdefault("model.pretrained", None)
    return flags | _length_flags(options.epochs, options.steps)


def data_flags(options: DataOptions, *, default: str | None) -> Flags:
    """The data set and its loader; `default` is the kind where only a folder was given."""
    return {**source_flags(options, default=default), "loader.workers": options.workers}


def source_flags(options: SourceOptions, *, default: str | None) -> Flags:
    """The data set; `default` is the kind where only a folder was given."""
    kind, _, name = (options.dataset or "").partition(":")
    if name and kind != "hub":
        raise ConfigError(f"--dataset `{options.dataset}` is not known: only `hub:NAME` takes a name", hint="hub:NAME")
    if not kind and options.data_dir is not None:
        kind = default or ""
    return {
        "data.kind": kind or None,
        "data.name": name or None,
        "data.data_dir": None if options.data_dir is None else str(options.data_dir.absolute()),
        "data.classes": _classes(options.classes),
    }


def model_flags(options: TrainingOptions) -> Flags:
    """The model: a whole checkpoint, or an encoder and a decoder.

    Raises:
        ConfigError: flags contradict each other, or would silently lose a recipe's encoder.
    """
    if options.model is not None:
        others = {
            "--decoder": options.decoder,
            "--backbone": options.backbone,
            "--pretrained": options.pretrained,
            "--attention": options.attention,
        }
        both = [flag for flag, value in others.items() if value is not None]
        if both:
            raise ConfigError(
                f"--model is a whole model: got {' and '.join(both)} as well",
                hint="leave them out, or leave out --model to build a model from an encoder and a decoder",
            )
        return {"model.kind": "checkpoint", "model.checkpoint": _local(options.model)}
    decoder, backbone = options.decoder, options.backbone
    if decoder is not None and backbone is None and options.config is not None:
        raise ConfigError(
            f"--decoder {decoder} takes the place of the recipe's whole model, and no encoder is named: got --config "
            f"{options.config}",
            hint="give --backbone too, or leave out --decoder",
        )
    if decoder is None and options.attention is not None and options.config is None:
        decoder = "tmanet"
    if decoder is None and backbone is not None and options.config is None:
        decoder = "segformer" if backbone.startswith("mit-") or "/mit-" in backbone else "upernet"
    return {
        "model.kind": decoder,
        "model.backbone": _local(backbone),
        "model.pretrained": _local(options.pretrained),
        "model.attention.kind": options.attention,
    }


def protocol_flags(options: ProtocolOptions) -> Flags:
    """How a model is shown an image."""
    return {
        "protocol.kind": options.protocol,
        "protocol.short_side": options.short_side,
        "protocol.scales": _scales(options.scales),
        "protocol.flip": options.flip,
    }


def recipe_path(config: str | None, flags: Flags, *, resumed: Path | None = None) -> Path | None:
    """The YAML to start from: the one that was named, the run's own on resume, the demo's for the demo images."""
    if config is not None:
        named = RECIPES / f"{config}.yaml"
        return named if named.is_file() and not Path(config).exists() else Path(config)
    if resumed is not None and (resumed / "config.yaml").is_file():
        return resumed / "config.yaml"
    return RECIPES / "demo.yaml" if flags.get("data.kind", "demo") == "demo" else None


def _classes(text: str | None) -> Any:
    if text is None:
        return None
    if Path(text).is_file():
        return str(Path(text).absolute())
    if Path(text).suffix.lower() in (".txt", ".json", ".yaml", ".yml", ".csv"):  # in the data folder, or nowhere
        return text
    return int(text) if text.isdigit() else [part.strip() for part in text.split(",")]


def _scales(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--scales `{text}` are not numbers", hint="0.5,0.75,1,1.25,1.5,1.75") from None


def _local(text: str | None) -> str | None:
    """Make the path of a folder that is there absolute, so that a run can be opened from anywhere."""
    return str(Path(text).absolute()) if text and os.sep in text and Path(text).exists() else text


def _size(text: str | None) -> Any:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise ConfigError(
            f"--crop-size `{text}` is not a size: expected pixels", hint="512, or 360x480 (height x width)"
        )
    return int(parts[0]) if len(parts) == 1 else [int(part) for part in parts]


def _length_flags(epochs: float | None, steps: int | None) -> Flags:
    """One of the two replaces the other, wherever that one was given before."""
    if epochs is None and steps is None:
        return {}
    if epochs is not None and steps is not None:
        raise ConfigError(f"--epochs and --steps are both given: got {epochs:g} and {steps}", hint="give one of them")
    return {"train.epochs": epochs, "train.steps": steps}
