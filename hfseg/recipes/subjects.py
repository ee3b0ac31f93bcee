"""What can be scored: a model under a protocol, or a folder of masks that anything made."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from hfseg.data import Change, EvalLoaderConfig, read_mask
from hfseg.engine.evaluation import Criterion, Evaluation, evaluate, tally
from hfseg.engine.inference import ProtocolConfig
from hfseg.engine.runtime import Runtime
from hfseg.errors import DataError
from hfseg.labels import LabelSpace
from hfseg.metrics import Counting
from hfseg.models import Segmenter
from hfseg.recipes.pictures import predict_images
from hfseg.recipes.scoring import AnyDataset, Show, counting, protocol_facts, shown_batches
from hfseg.values import Batch, Clip, Sample

ENDINGS = frozenset({".png", ".tif", ".tiff", ".bmp", ".gif"})


@runtime_checkable
class Subject(Protocol):
    """Something that can be scored on a data set."""

    @property
    def loader_short_side(self) -> int | None:
        """The short side at which it takes images from a loader."""

    @property
    def memory_frames(self) -> int:
        """How many frames before an image it is shown."""

    @property
    def protocol_facts(self) -> dict[str, Any]:
        """What stands as `protocol` beside its scores."""

    def count(self, batches: Iterable[Batch], count: Counting, runtime: Runtime) -> Evaluation:
        """Count pixels over all batches of all processes."""

    def predict(self, sample: Sample | Clip) -> Integer[np.ndarray, "h w"]:
        """Give the class of every pixel of one image, or of the last frame of a clip."""


def count_over(
    subject: Subject,
    dataset: AnyDataset,
    loader: EvalLoaderConfig,
    runtime: Runtime,
    *,
    boundary_width: float | None = None,
    change: Change | None = None,
    show: Show = lambda done, total: None,
) -> Evaluation:
    """Count a subject's pixels over a whole data set; `change` alters images, `show` is told how far it is."""
    batches = shown_batches(dataset, loader, runtime, short_side=subject.loader_short_side, change=change, show=show)
    return subject.count(batches, counting(dataset.labels, boundary_width=boundary_width), runtime)


@dataclass(frozen=True)
class ModelSubject:
    """A model, and how it is shown images."""

    segmenter: Segmenter
    protocol: ProtocolConfig
    criterion: Criterion | None = None

    @property
    def loader_short_side(self) -> int | None:
        """The short side at which it takes images from a loader."""
        return self.protocol.loader_short_side

    @property
    def memory_frames(self) -> int:
        """How many frames before an image the model reads."""
        return self.segmenter.memory_frames or 0

    @property
    def protocol_facts(self) -> dict[str, Any]:
        """The settings of the protocol, and its name in words."""
        return protocol_facts(self.protocol)

    def count(self, batches: Iterable[Batch], count: Counting, runtime: Runtime) -> Evaluation:
        """Predict and count this process's batches."""
        return evaluate(
            self.segmenter, batches, protocol=self.protocol, count=count, criterion=self.criterion, runtime=runtime
        )

    def predict(self, sample: Sample | Clip) -> Integer[np.ndarray, "h w"]:
        """Predict one image, or the last frame of a clip."""
        return predict_images(self.segmenter, [sample.pixels], protocol=self.protocol)[0]


@dataclass(frozen=True)
class PredictionFolder:
    """Index masks by the ids of their images: files called `ID.png`, or `ID_anything.png`, at any depth."""

    path: Path
    space: LabelSpace
    """The classes of the data set."""
    raw: bool = False
    """Whether the masks hold the data set's raw values, as submissions do, and not class ids from 0."""

    loader_short_side: None = None
    memory_frames: ClassVar[int] = 0
    protocol_facts: ClassVar[dict[str, Any]] = {"kind": "masks", "text": "masks as they are"}

    def count(self, batches: Iterable[Batch], count: Counting, runtime: Runtime) -> Evaluation:
        """Count what the masks of this process's images say."""
        return tally(batches, lambda batch: (self.of(batch), None), count=count, runtime=runtime)

    def predict(self, sample: Sample | Clip) -> Integer[np.ndarray, "h w"]:
        """Read what was predicted for one image."""
        return self.read(sample.id, sample.labels)

    def of(self, batch: Batch) -> Int[Tensor, "b h w"]:
        """Read what was predicted for the images of a batch.

        Raises:
            DataError: a mask is missing, of another size than the labels, or gives a labelled pixel no class.
        """
        preds = [self.read(name, labels.numpy()) for name, labels in zip(batch.ids, batch.labels.cpu(), strict=True)]
        return torch.from_numpy(np.stack(preds)).long().to(batch.labels.device)

    def read(self, name: str, labels: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "h w"]:
        """Read one mask; what the labels ignore is not looked at.

        Raises:
            DataError: as in `of`.
        """
        path = self._find(name)
        pred = read_mask(path, self._own_space, image_path=Path(name), size=(labels.shape[0], labels.shape[1]))
        nothing = pred == self.space.ignore_index
        missing = int((nothing & (labels != self.space.ignore_index)).sum())
        if missing:
            raise DataError(
                f"prediction `{path}` gives no class to {missing} labelled pixels: expected one of "
                f"{self.space.num_labels} classes in each",
                hint="if the masks hold raw values of the data set: --set prediction_values=raw",
            )
        return np.where(nothing, 0, pred)

    def _find(self, name: str) -> Path:
        stem = Path(name).name
        found = self._by_stem.get(stem) or [
            path for key, paths in self._by_stem.items() if key.startswith(f"{stem}_") for path in paths
        ]
        if len(found) != 1:
            got = ", ".join(f"`{path}`" for path in found[:3]) or f"{len(self._by_stem)} masks of other names"
            raise DataError(
                f"image `{name}` has {len(found)} predictions in `{self.path}`: expected one, got {got}",
                hint=f"save it as `{stem}.png`, with the size of the image",
            )
        owner = self._owners.setdefault(found[0], name)
        if owner != name:
            raise DataError(
                f"prediction `{found[0]}` would be that of two images: `{owner}` and `{name}`",
                hint=f"one of them has none: save it as `{Path(owner).name}.png` or `{stem}.png`",
            )
        return found[0]

    @cached_property
    def _owners(self) -> dict[Path, str]:
        """The image of each mask that was read."""
        return {}

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        if not self.path.is_dir():
            raise DataError(f"predictions `{self.path}` are no folder", hint="give a folder of index masks")
        found: dict[str, list[Path]] = {}
        for path in sorted(self.path.rglob("*")):
            if path.suffix.lower() in ENDINGS:
                found.setdefault(path.stem, []).append(path)
        return found

    @cached_property
    def _own_space(self) -> LabelSpace:
        """How the values of these masks are read."""
        if self.raw:
            return self.space
        ids = {index: index for index in range(self.space.num_labels)}
        return replace(self.space, table={**ids, self.space.ignore_index: self.space.ignore_index}, colors=None)
