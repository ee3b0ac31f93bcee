"""The command line: flags become a config, a recipe runs it, results go to stdout, everything else to stderr."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hfseg import __version__
from hfseg.errors import ConfigError, HfsegError

app = typer.Typer(
    name="hfseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

UsageError: Any = typer.BadParameter.__bases__[0]
"""What is raised for wrong flags; Typer carries its own copy of click, and gives no name to this."""

_DATA, _MODEL, _TRAIN, _RUN = "Data", "Model", "Training", "Run"
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=_RUN)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting by its name; may be repeated.", rich_help_panel=_RUN),
]
Dataset = Annotated[
    str | None,
    typer.Option(help="demo, ade20k, folder or hub:NAME [default: demo]", rich_help_panel=_DATA),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder or zip of the data set, or of images and masks.", rich_help_panel=_DATA)
]
Classes = Annotated[
    str | None,
    typer.Option(help="Class names: a,b,c or a file that lists them.", rich_help_panel=_DATA),
]
ShortSide = Annotated[
    int | None,
    typer.Option(help="Bring images to this short side, in pixels [default: native size]", rich_help_panel=_DATA),
]
Workers = Annotated[int | None, typer.Option(help="Processes that read data [default: 2]", rich_help_panel=_DATA)]
Cpu = Annotated[bool, typer.Option("--cpu", help="Compute on the CPU.", rich_help_panel=_RUN)]

_TORCHVISION_HINT = (
    "torchvision is installed and does not fit torch, which breaks Transformers; nothing here needs it: "
    "`pip uninstall torchvision`, or install the one that was built for this torch"
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hfseg {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From images and masks to a fine-tuned, measured, explained segmentation model on Hugging Face Transformers."""


@app.command(epilog="Example: hfseg finetune --dataset folder --data-dir my-images --backbone convnextv2 --epochs 50")
def finetune(
    dataset: Dataset = None,
    data_dir: DataDir = None,
    classes: Classes = None,
    short_side: ShortSide = None,
    crop_size: Annotated[
        str | None,
        typer.Option(
            help="Training crop in pixels, 512 or 360x480 (height x width) [default: 512]", rich_help_panel=_DATA
        ),
    ] = None,
    workers: Workers = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whole segmentation checkpoint: Hub id, folder or run.", rich_help_panel=_MODEL),
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="segformer, upernet or fusion [default: what fits]", rich_help_panel=_MODEL)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Encoder: alias such as convnextv2-base, nat, dinat, fastervit or dinov2, timm:NAME, Hub id, folder.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Encoder weights: Hub id, folder, or none for random ones [default: the alias's checkpoint]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="backbone, backbone.stages.0-2, all-but:decode_head.classifier, or a module glob; commas join.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="ce, dice, or a sum such as ce+0.5*dice [default: ce]", rich_help_panel=_TRAIN)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the data [default: 50]", rich_help_panel=_TRAIN)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps, instead of --epochs.", rich_help_panel=_TRAIN)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step and process [default: 8]", rich_help_panel=_TRAIN)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate [default: 6e-5]", rich_help_panel=_TRAIN)] = None,
    precision: Annotated[
        str | None, typer.Option(help="no, bf16 or fp16 [default: no]", rich_help_panel=_TRAIN)
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the model.", rich_help_panel=_TRAIN)] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random [default: 0]", rich_help_panel=_TRAIN)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run [default: runs/DATASET-MODEL]", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output.", rich_help_panel=_RUN)
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="YAML file, or the name of a packaged recipe.", rich_help_panel=_RUN)
    ] = None,
    cpu: Cpu = False,
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a segmentation model; without a data set, on the demo images that come with the package."""
    flags = {
        **_data_flags(dataset, data_dir, classes, config),
        **_model_flags(model, decoder, backbone, pretrained, config),
        "augment.short_side": short_side,
        "augment.crop_size": _size(crop_size),
        "loader.workers": workers,
        "loader.batch_size": batch_size,
        "freeze.modules": freeze,
        "loss.terms": loss,
        "optim.lr": lr,
        "runtime.precision": precision,
        "runtime.compile": compiled or None,
        "runtime.cpu": cpu or None,
        "seed": seed,
        "output": None if output is None else str(output),
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    if "model.backbone" in flags and config is None:  # the demo's random weights are those of its own encoder
        flags.setdefault("model.pretrained", None)
    flags |= _length_flags(epochs, steps)
    yaml_path = _recipe(config, flags, output if resume else None)

    from hfseg.recipes import finetune as recipe
    from hfseg.recipes.console import show_scores
    from hfseg.recipes.run import FinetuneConfig, free_output

    settings = FinetuneConfig.load(yaml_path=yaml_path, flags=flags, sets=sets or ())
    if resume and output is None:
        raise ConfigError("--resume needs to know which run: --output was not given", hint="--output RUN --resume")
    if output is None and "output" not in settings.model_fields_set:
        settings = settings.model_copy(update={"output": free_output(settings)})
    result = recipe.run(settings, resume=resume)
    if result is not None:
        _print(result.metrics, as_json, show_scores)
        _say(f"report: {result.report}")


@app.command(epilog="Example: hfseg evaluate runs/demo --split validation")
def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    dataset: Dataset = None,
    data_dir: DataDir = None,
    classes: Classes = None,
    split: Annotated[
        str | None, typer.Option(help="train, validation or test [default: validation]", rich_help_panel=_DATA)
    ] = None,
    short_side: ShortSide = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of one size at once [default: 4]", rich_help_panel=_DATA)
    ] = None,
    workers: Workers = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for metrics.json and metrics.csv.", rich_help_panel=_RUN),
    ] = None,
    cpu: Cpu = False,
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on a whole data set: mIoU, mean and pixel accuracy, and every class."""
    from hfseg.recipes import evaluate as recipe
    from hfseg.recipes.console import show_scores

    flags = {
        **_data_flags(dataset, data_dir, classes, None),
        "model": model,
        "split": split,
        "short_side": short_side,
        "loader.eval_batch_size": batch_size,
        "loader.workers": workers,
        "output": None if output is None else str(output),
        "runtime.cpu": cpu or None,
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    metrics = recipe.run(recipe.EvaluateConfig.load(flags=flags, sets=sets or ()))
    if metrics is not None:
        _print(metrics, as_json, show_scores)


@app.command(epilog="Example: hfseg predict runs/demo photos/ 'more/*.jpg' --output predictions")
def predict(
    model: Annotated[str, typer.Argument(help="A run folder, a model folder, or a Hub id.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, folders and globs.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the pictures [default: predictions]", rich_help_panel=_RUN),
    ] = None,
    labels_dir: Annotated[
        Path | None, typer.Option(help="Folder of masks with the images' names.", rich_help_panel=_DATA)
    ] = None,
    short_side: ShortSide = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of one size at once [default: 1]", rich_help_panel=_DATA)
    ] = None,
    cpu: Cpu = False,
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw what a model sees: index masks, overlays, and image beside prediction."""
    from hfseg.recipes import predict as recipe

    flags = {
        "model": model,
        "inputs": inputs,
        "output": None if output is None else str(output),
        "labels_dir": None if labels_dir is None else str(labels_dir),
        "short_side": short_side,
        "batch_size": batch_size,
        "runtime.cpu": cpu or None,
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    result = recipe.run(recipe.PredictConfig.load(flags=flags, sets=sets or ()), progress=_say)
    if as_json:
        typer.echo(json.dumps({"written": [str(path) for path in result.written], "skipped": list(result.skipped)}))
    else:
        for path in result.written:
            typer.echo(path)
    if result.skipped:
        _say(f"{len(result.skipped)} of the inputs could not be read and were skipped")
        raise typer.Exit(1)


@app.command(epilog="Example: hfseg report runs/demo")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Rebuild a run's page from its folder."""
    from hfseg.recipes import report as recipe

    typer.echo(recipe.run(run))


@app.command(epilog="Example: hfseg backbones dinat-mini")
def backbones(
    name: Annotated[
        str | None, typer.Argument(help="One encoder to look at: alias, timm:NAME, Hub id or folder.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the encoders: which can be used, their strides and channels, and where their weights are."""
    from hfseg.recipes import backbones as recipe

    rows = recipe.run(name)
    typer.echo(json.dumps([asdict(row) for row in rows]) if as_json else recipe.to_text(rows))


@app.command(epilog="Example: hfseg doctor")
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has and lacks: libraries, devices, precisions, the Hub, disk and memory."""
    from hfseg.recipes import doctor as recipe

    facts = recipe.run()
    typer.echo(json.dumps(recipe.to_json(facts)) if as_json else recipe.to_text(facts))
    if not recipe.is_healthy(facts):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 something the user can mend, 130 and 143 stopped."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost a factor of 9 on two busy cores
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("hfseg").setLevel(logging.INFO)
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="hfseg", standalone_mode=False)
    except HfsegError as error:
        _fail(error.message, error.hint, error.exit_code, debug)
    except UsageError as error:
        if not error.message:  # no command at all: the help has been shown
            sys.exit(2)
        _fail(*_usage(error), 2, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted before anything was trained", None, 130, debug)
    except Exception as error:  # the last resort: say it in a line, keep the traceback for --debug
        _fail(*_unexpected(error), 1, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, hint: str | None, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    rank = os.environ.get("RANK", "0")
    text = f"error{'' if rank == '0' else f' (process {rank})'}: {message}"
    _say(f"{text}\n\nhint: {hint}" if hint else text)
    sys.exit(code)


def _unexpected(error: BaseException) -> tuple[str, str]:
    """Put an error that nobody foresaw into a line; Transformers hides those of torchvision behind one of its own."""
    said, cause = f"{type(error).__name__}: {error}", error.__cause__ or error.__context__
    while cause is not None:
        if "torchvision" in str(cause):
            return f"{type(cause).__name__}: {cause}", _TORCHVISION_HINT
        cause = cause.__cause__ or cause.__context__
    return said, "this is unexpected; --debug shows where it happened"


def _usage(error: Any) -> tuple[str, str]:
    """Put what the parser says about wrong flags into our words."""
    command = error.ctx.command_path if error.ctx else "hfseg"
    sentence, _, meant = error.format_message().partition(" Did you mean ")
    possible = getattr(error, "possibilities", None) or ([meant.rstrip("?").strip("'")] if meant else [])
    hint = f"`{command} --help` lists what there is"
    sentence = sentence.split("\n")[0].rstrip(".")
    return sentence[0].lower() + sentence[1:], f"did you mean `{possible[0]}`? {hint}" if possible else hint


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(metrics: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        show(metrics)


def _data_flags(dataset: str | None, data_dir: Path | None, classes: str | None, config: str | None) -> dict[str, Any]:
    kind, _, name = (dataset or "").partition(":")
    if name and kind != "hub":
        raise ConfigError(f"--dataset `{dataset}` is not known: only `hub:NAME` takes a name", hint="hub:NAME")
    if not kind and data_dir is not None and config is None:
        kind = "folder"
    listed: Any = classes
    if classes is not None and not Path(classes).is_file():
        listed = [part.strip() for part in classes.split(",")]
    return {
        "data.kind": kind or None,
        "data.name": name or None,
        "data.data_dir": None if data_dir is None else str(data_dir.absolute()),
        "data.classes": listed,
    }


def _model_flags(
    model: str | None, decoder: str | None, backbone: str | None, pretrained: str | None, config: str | None
) -> dict[str, Any]:
    if model is not None:
        others = {"--decoder": decoder, "--backbone": backbone, "--pretrained": pretrained}
        given = [flag for flag, value in others.items() if value is not None]
        if given:
            raise ConfigError(
                f"--model is a whole model: got {' and '.join(given)} as well",
                hint="leave them out, or leave out --model to build a model from an encoder and a decoder",
            )
        return {"model.kind": "checkpoint", "model.checkpoint": _local(model)}
    if decoder is None and backbone is not None and config is None:
        decoder = "segformer" if backbone.startswith("mit-") or "/mit-" in backbone else "upernet"
    return {"model.kind": decoder, "model.backbone": _local(backbone), "model.pretrained": _local(pretrained)}


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


def _length_flags(epochs: float | None, steps: int | None) -> dict[str, Any]:
    """One of the two replaces the other, wherever that one was given before."""
    if epochs is None and steps is None:
        return {}
    if epochs is not None and steps is not None:
        raise ConfigError(f"--epochs and --steps are both given: got {epochs:g} and {steps}", hint="give one of them")
    return {"train.epochs": epochs, "train.steps": steps}


def _recipe(config: str | None, flags: dict[str, Any], resumed: Path | None) -> Path | None:
    """The YAML to start from: the one that was named, the run's own on resume, the demo's for the demo images."""
    packaged = Path(__file__).parent / "configs"
    if config is not None:
        named = packaged / f"{config}.yaml"
        return named if named.is_file() and not Path(config).exists() else Path(config)
    if resumed is not None and (resumed / "config.yaml").is_file():
        return resumed / "config.yaml"
    return packaged / "demo.yaml" if flags.get("data.kind", "demo") == "demo" else None
