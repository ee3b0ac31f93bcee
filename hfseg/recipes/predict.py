"""`hfseg predict`: masks, overlays and side-by-side pictures of images, folders and globs."""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveInt, model_validator

from hfseg.config import Config
from hfseg.data import read_image, read_mask
from hfseg.engine.inference import ProtocolConfig, WholeConfig
from hfseg.engine.runtime import DeviceConfig
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.models import open_model
from hfseg.recipes.pictures import draw, predict_images
from hfseg.recipes.run import RunFolder
from hfseg.recipes.submission import Benchmark, submission_space, write_archive, write_raw_mask

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


class PredictConfig(Config):
    """What is predicted, with which model, and where the pictures go."""

    model: str
    """A run folder (its `best-miou` is taken), a model folder, or a Hub id."""
    inputs: tuple[str, ...]
    """Images, folders of images, and globs."""
    output: Path = Path("predictions")
    """Folder for the pictures."""
    labels_dir: Path | None = None
    """Folder of masks with the images' names; adds labels and error to the side-by-side picture."""
    batch_size: PositiveInt = 1
    """Images of one size that go through the model together."""
    protocol: ProtocolConfig | None = None
    """How the model is shown an image; a run's own where it is not given, else whole images of their native size."""
    submission: Benchmark | None = None
    """Write only masks of this data set's raw values, and a zip of them: what its server takes."""
    runtime: DeviceConfig = DeviceConfig()

    @model_validator(mode="after")
    def _no_pictures_for_a_server(self) -> "PredictConfig":
        if self.submission is not None and self.labels_dir is not None:
            raise ValueError("`labels_dir` has no effect with `submission`: no pictures are drawn then")
        return self


@dataclass(frozen=True)
class Result:
    """What was written, and what could not be read."""

    written: tuple[Path, ...]
    skipped: tuple[str, ...]


def run(config: PredictConfig, *, progress: Callable[[str], None]) -> Result:
    """Predict every input and write its pictures; an input that cannot be read is named and skipped.

    Raises:
        HfsegError: the model cannot be opened, or there is nothing to predict.
    """
    paths = find_images(config.inputs)
    runtime = config.runtime.start()
    segmenter, space = open_model(config.model)
    segmenter.to(runtime.device)
    folder = RunFolder.of_model(config.model)
    settings = folder.settings() if folder else None
    protocol = config.protocol or (settings.protocol if settings else WholeConfig())
    raw_space = settings.data.labels() if settings and config.labels_dir else space
    server_space = submission_space(config.submission, space, name=config.model) if config.submission else None
    names = _names(paths)
    written: list[Path] = []
    skipped: list[str] = []
    for batch in _batches(paths, config.batch_size, skipped, progress):
        preds = predict_images(segmenter, [image for _, image in batch], protocol=protocol)
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
    return Result(tuple(written), tuple(skipped))


def find_images(inputs: tuple[str, ...]) -> list[Path]:
    """Find the images that files, folders (searched deeply) and globs stand for, each once, in a stable order.

    Raises:
        DataError: an input stands for no image.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = [inner for inner in sorted(path.rglob("*")) if inner.suffix.lower() in IMAGE_SUFFIXES]
        elif path.exists():
            matches = [path]
        else:
            found_files = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
            matches = [Path(match) for match in found_files if Path(match).is_file()]
        if not matches:
            raise DataError(
                f"input `{text}` stands for no image: expected a file, a folder of images, or a glob",
                hint=f"endings that are known: {' '.join(sorted(IMAGE_SUFFIXES))}",
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _names(paths: list[Path]) -> dict[Path, Path]:
    """Output names without ending; images of the same name in several folders keep their folder's name."""
    stems = [path.stem for path in paths]
    plain = len(set(stems)) == len(stems)
    if plain:
        return {path: Path(path.stem) for path in paths}
    root = Path(*_common_parts([path.absolute().parent.parts for path in paths]))
    return {path: path.absolute().relative_to(root).with_name(path.name.replace(".", "_")) for path in paths}


def _common_parts(many: list[tuple[str, ...]]) -> list[str]:
    return [level[0] for level in zip(*many, strict=False) if len(set(level)) == 1]


def _batches(
    paths: list[Path], size: int, skipped: list[str], progress: Callable[[str], None]
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
