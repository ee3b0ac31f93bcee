"""`hfseg explain`: class activation, attention heads and receptive fields, as pictures of images and clips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config
from hfseg.data import DataConfig, Split, pick_samples, read_image
from hfseg.engine.inference import WholeConfig
from hfseg.engine.runtime import DeviceConfig
from hfseg.errors import ConfigError, DataError
from hfseg.models import Segmenter, open_model
from hfseg.recipes.explain.activation import CamConfig
from hfseg.recipes.explain.attention import AttentionConfig, run_attention
from hfseg.recipes.explain.cam import run_cam
from hfseg.recipes.explain.clips import current
from hfseg.recipes.explain.opened import Line, NamedImages, Opened, list_pictures
from hfseg.recipes.explain.receptive import ReceptiveFieldConfig, random_encoder, run_receptive_field
from hfseg.recipes.inputs import Inputs, find_inputs
from hfseg.recipes.run import RunFolder
from hfseg.video import Clip, require_av
from hfseg.viz import build_report

ATTENTION = (
    "where each head looks from the marked place: colours up to the head's largest weight, cells as they are, "
    "grey where it does not look; of memory, what the place reads of each frame"
)
PICTURES = frozenset({".jpg", ".png", ".mp4", ".gif"})


class ExplainConfig(Config):
    """What is explained, of which model, and where the pictures go."""

    model: str | None = None
    """A run folder (its `best-miou` is taken), a model folder, or a Hub id; not needed for receptive fields of
    `explanation.backbones`."""
    inputs: tuple[str, ...] = ()
    """Images, videos, folders of them, and globs."""
    as_video: bool = False
    """Take each folder of images as the frames of one clip, in the order of the numbers in their names."""
    fps: PositiveFloat = 25.0
    """Frames per second of a clip that is a folder of images."""
    data: DataConfig | None = None
    """A data set of which samples are explained too; to a model with memory, with the frames before them."""
    split: Split | None = None
    """The part of the data set that samples are from, of the run's own where `data` is not given; validation where only
    `data` is."""
    samples: PositiveInt = 4
    """How many samples are explained, spread evenly over the part."""
    output: Path | None = None
    """Folder for the pictures; `explain/` in the model's run, or `explanations`, where it is not given."""
    short_side: PositiveInt | None = None
    """Pixels to which the shorter side of an image is brought; as in the run's validations where it is not given, else
    its own size. The whole image is shown at once, whatever windows and views a protocol has."""
    explanation: Annotated[CamConfig | AttentionConfig | ReceptiveFieldConfig, Field(discriminator="kind")] = (
        CamConfig()
    )
    runtime: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _something_to_explain(self) -> "ExplainConfig":
        if isinstance(self.explanation, ReceptiveFieldConfig):
            if self.short_side is not None:
                raise ValueError("`short_side` has no effect on receptive fields\n\nhint: set `explanation.size`")
            if self.model is None and not self.explanation.backbones:
                raise ValueError("a receptive field needs a model, or an encoder in `explanation.backbones`")
        elif self.model is None or not (self.inputs or self.takes_samples):
            missing = "`model`" if self.model is None else "`inputs`"
            raise ValueError(f"{missing} is needed and was not given\n\nhint: hfseg explain MODEL IMAGES")
        idle = {"samples": self.takes_samples, "fps": self.as_video}
        for key in sorted(self.model_fields_set & {key for key, is_used in idle.items() if not is_used}):
            needed = "a data set: `data` or `split`" if key == "samples" else "`as_video`"
            raise ValueError(f"`{key}` has no effect without {needed}")
        return self

    @property
    def takes_samples(self) -> bool:
        """Whether samples of a data set are explained."""
        return self.data is not None or self.split is not None


@dataclass(frozen=True)
class Result:
    """What was written, and in which inputs there was nothing to explain or to read."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]


def run(config: ExplainConfig, *, progress: Callable[[str], None]) -> Result:
    """Explain every input; one that cannot be read, or lacks what is asked about, is named and skipped.

    Pictures that go to the model's run are put into its page.

    Raises:
        HfsegError: a model cannot be opened, a layer or class is unknown, or there is nothing to explain.
    """
    result = _explained(config, progress)
    folder = _run_of(config)
    if folder is not None and config.output is None:
        build_report(folder.path)
    return result


def _explained(config: ExplainConfig, progress: Callable[[str], None]) -> Result:
    inputs = find_inputs(config.inputs, as_video=config.as_video) if config.inputs else Inputs((), (), {})
    explanation = config.explanation
    if isinstance(explanation, ReceptiveFieldConfig):
        return _receptive_field(config, explanation, inputs, progress)
    if inputs.clips:
        require_av()
    opened = open_for_explaining(config, progress=progress)
    written: list[Path] = []
    if inputs.images or config.takes_samples:
        samples = _samples(config, opened.segmenter.memory_frames or 0)
        written += _explain(explanation, opened, chain(_images(inputs, opened.skipped, progress), samples))
    refused: DataError | None = None
    for path in inputs.clips:
        try:
            written += _explain(explanation, opened, inputs.open_clip(path, fps=config.fps))
        except DataError as error:
            refused = error
            opened.skipped.append(str(path))
            progress(f"skipped: {error.message}")
    if refused is not None and not written:
        raise refused
    return Result(tuple(written), tuple(opened.skipped))


def open_for_explaining(config: ExplainConfig, *, progress: Callable[[str], None]) -> Opened:
    """Open the model, on its device, as its run shows it images.

    Raises:
        ModelError: it cannot be opened.
    """
    model = str(config.model)
    folder = _run_of(config)
    protocol = folder.settings().protocol if folder else WholeConfig()
    if config.short_side is not None:
        protocol = WholeConfig(short_side=config.short_side)
    segmenter, space = open_model(model)
    segmenter.to(config.runtime.start().device)
    return Opened(segmenter, space, protocol, _output(config), progress)


def _explain(explanation: CamConfig | AttentionConfig, opened: Opened, source: NamedImages | Clip) -> list[Path]:
    if isinstance(explanation, CamConfig):
        return run_cam(explanation, opened, source)
    written = run_attention(explanation, opened, source)
    names = [str(path.relative_to(opened.output)) for path in written if path.suffix in PICTURES]
    list_pictures(
        opened.output, [Line(name, "attention", f"Attention heads: {Path(name).stem}", ATTENTION) for name in names]
    )
    return written


def _images(
    inputs: Inputs, skipped: list[str], progress: Callable[[str], None]
) -> Iterator[tuple[str, UInt8[np.ndarray, "_h _w 3"]]]:
    """Read the images one after the other; one that cannot be read is named and skipped."""
    names = inputs.names()
    for path in inputs.images:
        try:
            image = read_image(path)
        except DataError as error:
            skipped.append(str(path))
            progress(f"skipped: {error.message}")
            continue
        yield str(names[path]), image


def _samples(config: ExplainConfig, memory_frames: int) -> NamedImages:
    """Read samples of the data set that was named, or of the run's own; as clips where frames are to be remembered.

    Raises:
        ConfigError: no data set is known, or it does not know which frames come before an image.
        DataError: it is not where it was said to be.
    """
    if not config.takes_samples:
        return
    run = _run_of(config)
    data = config.data or (run.settings().data if run else None)
    if data is None:
        raise ConfigError(
            f"`{config.model}` is not a run of hfseg, so its data set is not known: `data` was not given",
            hint="give --dataset and --data-dir",
        )
    dataset = data.open(config.split or "validation").clips(memory_frames)
    for sample in pick_samples(dataset, config.samples):
        yield sample.id, sample.pixels


def _receptive_field(
    config: ExplainConfig, explanation: ReceptiveFieldConfig, inputs: Inputs, progress: Callable[[str], None]
) -> Result:
    if inputs.clips:
        raise DataError(f"receptive fields are averaged over images: got the clip `{inputs.clips[0]}`")
    device = config.runtime.start().device
    named = [model for model in (config.model, *explanation.against) if model is not None]
    models: list[tuple[str, Segmenter]] = [(_name(model), open_model(model)[0]) for model in named]
    models += [
        (f"{backbone}, random weights" if named else backbone, random_encoder(backbone, seed=explanation.seed))
        for backbone in explanation.backbones
    ]
    skipped: list[str] = []
    images = [image for _, image in _images(inputs, skipped, progress)]
    images += [current(pixels) for _, pixels in _samples(config, 0)]
    for _, segmenter in models:
        segmenter.to(device)
    return Result(tuple(run_receptive_field(explanation, models, images, _output(config))), tuple(skipped))


def _run_of(config: ExplainConfig) -> RunFolder | None:
    return None if config.model is None else RunFolder.of_model(config.model)


def _output(config: ExplainConfig) -> Path:
    folder = _run_of(config)
    return config.output or (folder.path / "explain" if folder else Path("explanations"))


def _name(model: str) -> str:
    folder = RunFolder.of_model(model)
    return (folder.path if folder else Path(model)).absolute().name
