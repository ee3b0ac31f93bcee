"""Any semantic segmentation checkpoint of Transformers, with a new classifier where the classes are others."""

from typing import Any, Literal

from pydantic import Field
from torch import nn

from hfseg.config import Config
from hfseg.errors import ModelError
from hfseg.labels import LabelSpace
from hfseg.models import anatomy
from hfseg.models.assemble import assemble
from hfseg.models.loading import load_segmentation
from hfseg.models.segmenter import Segmenter
from hfseg.models.sources import locate

INITIAL_STD = 0.02
"""Deviation of a new classifier's weights, where the config names none."""


class CheckpointModelConfig(Config):
    """A whole pretrained segmentation model."""

    kind: Literal["checkpoint"] = "checkpoint"
    """Picks this model."""
    checkpoint: str = Field(min_length=1)
    """A Hub id, a local model folder, or a run folder (its `best-miou/`)."""
    classifier: Literal["auto", "keep", "new"] = "auto"
    """`auto` keeps the classifier where number, names and order of the classes are the same, and makes a new one
    otherwise; `keep` keeps it if the number is the same, whatever the names; `new` always makes a new one."""

    @property
    def memory_frames(self) -> int:
        """How many frames before an image the model was made to read; 0 of a model of single images.

        Raises:
            ModelError: the model cannot be had.
        """
        return int(locate(self.checkpoint).config.get("memory_frames") or 0)

    def build(self, labels: LabelSpace, *, crop: tuple[int, int] | None = None) -> Segmenter:
        """Load the model and fit it to a label space, in training mode.

        Only the classifiers (decoder and auxiliary head) are ever new. Names are compared without regard to case.

        Raises:
            ModelError: the model cannot be had, is of another kind or incomplete, or `keep` meets another number of
                classes.
        """
        hf, pixels = load_segmentation(locate(self.checkpoint))
        new_parameters = () if self._keeps(hf, labels) else renew_classifiers(hf, labels)
        return assemble(hf, pixels, labels, new_parameters=new_parameters)

    def _keeps(self, hf: Any, labels: LabelSpace) -> bool:
        names = [str(hf.config.id2label[index]).casefold() for index in sorted(hf.config.id2label)]
        if self.classifier == "keep" and len(names) != labels.num_labels:
            raise ModelError(
                f"`model.classifier` is `keep` and `{self.checkpoint}` has {len(names)} classes: "
                f"the data have {labels.num_labels}",
                hint="use `auto`, which makes a new classifier here",
            )
        same = names == [name.casefold() for name in labels.names]
        return self.classifier == "keep" or (self.classifier == "auto" and same)


def renew_classifiers(hf: Any, labels: LabelSpace) -> tuple[str, ...]:
    """Replace the classifiers of `hf` by new ones for a label space; give the names of their parameters."""
    names: list[str] = []
    std = getattr(hf.config, "initializer_range", INITIAL_STD)
    for path, old in anatomy.classifiers(hf).items():
        new = _resized(old, labels.num_labels)
        nn.init.normal_(new.weight, std=std)
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        parent, _, name = path.rpartition(".")
        setattr(hf.get_submodule(parent), name, new)
        names += [f"{path}.{parameter}" for parameter, _ in new.named_parameters()]
    hf.config.id2label = labels.id2label
    hf.num_labels = labels.num_labels
    return tuple(names)


def _resized(layer: nn.Conv2d | nn.Linear, count: int) -> nn.Conv2d | nn.Linear:
    has_bias, device = layer.bias is not None, layer.weight.device
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, count, bias=has_bias, device=device)
    assert layer.groups == 1, "a classifier looks at every channel"
    return nn.Conv2d(
        layer.in_channels,
        count,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        bias=has_bias,
        device=device,
    )
