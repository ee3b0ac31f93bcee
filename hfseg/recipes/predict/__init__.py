"""`hfseg predict`: masks, overlays and side-by-side pictures of images, and videos of videos."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveInt, model_validator

from hfseg.config import Config
from hfseg.data import read_image, read_mask
from hfseg.engine.inference import ProtocolConfig, WholeConfig
from hfseg.engine.runtime import DeviceConfig
from hfseg.engine.smoothing import SmoothingConfig
from hfseg.engine.stop import stop_on_signals
from hfseg.errors import ConfigError, DataError, ModelError
from hfseg.labels import LabelSpace
from hfseg.models import Segmenter, StreamConfig, open_model
from hfseg.recipes.clip_output import VideoConfig
from hfseg.recipes.inputs import Inputs, find_inputs
from hfseg.recipes.pictures import draw, predict_images
from hfseg.recipes.predict.submission import Benchmark, submission_space, write_archive, write_raw_mask
from hfseg.recipes.predict.video import ClipResult, ModelFrames, predict_clip
from hfseg.recipes.run import RunFolder
from hfseg.video import require_av


class PredictConfig(Config):
    """What is predicted, with which model, and where the pictures go."""

    model: str
    """A run folder (its `best-miou` is taken), a model folder, or a Hub id."""
    inputs: tuple[str, ...]
    """Images, videos, folders of them, and globs."""
    output: Path = Path("predictions")
    """Folder for the pictures and videos."""
    labels_dir: Path | None = None
    """Folder of masks with the images' names; adds labels and error to the side-by-side picture."""
    batch_size: PositiveInt = 1
    """Images of one size that go through the model together."""
    protocol: ProtocolConfig | None = None
    """How the model is shown an image; a run's own where it is not given, else whole images of their native size."""
    submission: Benchmark | None = None
    """Write only masks of this data set's raw values, and a zip of them: what its server takes."""
    video: VideoConfig = VideoConfig()
    smoothing: SmoothingConfig = SmoothingConfig()
    memory: StreamConfig = StreamConfig()
    runtime: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _no_pictures_for_a_server(self) -> "PredictConfig":
        if self.submission is not None and self.labels_dir is not None:
            raise ValueError("`labels_dir` has no effect with `submission`: no pictures are drawn then")
        return self


@dataclass(frozen=True)
class Result:
    """What was written, what could not be read, and what became of each clip."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]
    clips: tuple[ClipResult, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every input could be read, and to its end."""
        return not self.skipped and all(clip.is_complete for clip in self.clips)


def run(config: PredictConfig, *, progress: Callable[[str], None]) -> Result:
    """Predict every input and write its pictures; an input that cannot be read is named and skipped.

    Raises:
        HfsegError: the model cannot be opened, there is nothing to predict, or a setting has no effect on the inputs.
        RunInterrupted: a signal asked to stop within a clip.
    """
    inputs = find_inputs(config.inputs, as_video=config.video.as_video)
    _check_settings(config, inputs)
    runtime = config.runtime.start()
    segmenter, space = open_model(config.model)
    segmenter.to(runtime.device)
    folder = RunFolder.of_model(config.model)
    settings = folder.settings() if folder else None
    protocol = config.protocol or (settings.protocol if settings else WholeConfig())
    raw_space = settings.data.labels() if settings and config.labels_dir else space
    written, skipped = _images(config, inputs, segmenter, (space, raw_space), protocol, progress)
    predictor = ModelFrames(segmenter, protocol, config.smoothing.build(), config.memory)
    clips = _clips(config, inputs, predictor, space, skipped, progress)
    written += [path for clip in clips for path in clip.written]
    return Result(tuple(written), tuple(skipped), tuple(clips))


def _check_settings(config: PredictConfig, inputs: Inputs) -> None:
    """See that every setting that was given has something to act on.

    Raises:
        ConfigError: it has not.
        DataError: PyAV is missing.
    """
    videos = len(inputs.clips)
    given = config.model_fields_set
    idle = {"video", "smoothing", "memory"} if not videos else {"labels_dir", "submission", "batch_size"}
    found = sorted(idle & {name for name in given if getattr(config, name) is not None})
    if found and (not videos or not inputs.images):
        kind, others = ("images", "videos") if not videos else ("videos", "images")
        hint = "a folder of images is one clip with --as-video" if not videos else None
        raise ConfigError(f"`{found[0]}` has no effect: it is for {others}, and the inputs are {kind}", hint=hint)
    if config.video.stdout and (inputs.images or videos != 1):
        raise ConfigError(
            f"`video.stdout` takes one clip: got {len(inputs.images)} images and {videos} clips",
            hint="raw masks of several would run into each other",
        )
    if videos and (inputs.videos or not config.video.stdout):
        require_av()


def _images(
    config: PredictConfig,
    inputs: Inputs,
    segmenter: Segmenter,
    spaces: tuple[LabelSpace, LabelSpace],
    protocol: ProtocolConfig,
    progress: Callable[[str], None],
) -> tuple[list[Path], list[str]]:
    """Predict the images and write their pictures; `spaces` are the model's and that of the masks' raw values."""
    space, raw_space = spaces
    server_space = submission_space(config.submission, space, name=config.model) if config.submission else None
    names = inputs.names()
    written: list[Path] = []
    skipped: list[str] = []
    for batch in _batches(inputs.images, config.batch_size, skipped, progress):
        try:
            preds = predict_images(segmenter, [image for _, image in batch], protocol=protocol)
        except ModelError as error:  # of a size that the model cannot take; the next ones may have another
            skipped += [str(path) for path, _ in batch]
            progress(f"skipped: {', '.join(f'`{path}`' for path, _ in batch)}: {error.message}")
            continue
        for (path, image), pred in zip(batch, preds, strict=True):
            stem = config.output / names[path]
            if server_space is not None:
                written.append(write_raw_mask(pred, server_space, stem))
            else:
                labels = _labels(path, image, config.labels_dir, raw_space)
                written += draw(image, pred, labels, space, stem)
            progress(f"{path} -> {stem}.png")
    if server_space is not None:
        written.append(write_archive(written, config.output))
    return written, skipped


def _clips(
    config: PredictConfig,
    inputs: Inputs,
    predictor: ModelFrames,
    space: LabelSpace,
    skipped: list[str],
    progress: Callable[[str], None],
) -> list[ClipResult]:
    """Predict the clips; one that cannot be read at all is named and skipped."""
    paths, names, results = inputs.clips, inputs.names(), []
    if not paths:
        return []
    about = {
        "model": config.model,
        "protocol": predictor.protocol.to_text(),
        "smoothing": config.smoothing.decay,
        **predictor.memory_facts,
    }
    with stop_on_signals() as wish:
        for path in paths:
            try:
                clip, stem = inputs.open_clip(path, fps=config.video.fps), config.output / names[path]
                results.append(predict_clip(clip, predictor, space, config.video, stem, about=about, wish=wish))
            except DataError as error:
                skipped.append(str(path))
                progress(f"skipped: {error.message}")
    return results


def _batches(
    paths: Sequence[Path], size: int, skipped: list[str], progress: Callable[[str], None]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Read images and group neighbours of one size, `size` at the most."""
    batch: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            skipped.append(str(path))
            progress(f"skipped: {error.message}")
            continue
        if batch and (len(batch) == size or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((path, image))
    if batch:
        yield batch


def _labels(path: Path, image: np.ndarray, folder: Path | None, space: LabelSpace) -> np.ndarray | None:
    """The labels of an image, where a folder of masks has them.

    Raises:
        DataError: the mask is missing or of another size than the image.
    """
    if folder is None:
        return None
    found = sorted(folder.glob(f"{glob.escape(path.stem)}.*"))
    if not found:
        raise DataError(f"image `{path}` has no mask: looked for `{folder / path.stem}.*`")
    return read_mask(found[0], space, image_path=path, size=(image.shape[0], image.shape[1]))
