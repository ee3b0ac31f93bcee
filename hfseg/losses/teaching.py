"""What is learned from a teacher: settings, and their terms by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Integer
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from hfseg.config import Config
from hfseg.losses.distillation import channel_wise, feature_distance, pairwise, soft_cross_entropy
from hfseg.values import TappedOutput

WEIGHTS = {
    "kd": ("temperature",),
    "cwd": ("cwd_temperature",),
    "feature": (),
    "pairwise": ("pairwise_nodes",),
}
"""The weights of the terms, and the settings that mean nothing without them."""
OF_FEATURES = ("feature", "pairwise")
"""The terms that compare what the classifiers read."""


class DistillConfig(Config):
    """What is learned from a teacher, beside the labels."""

    teacher: str | None = Field(default=None, min_length=1, examples=["runs/large"])
    """The model that teaches: a run folder (its `best-miou/`), a model folder or a Hub id, with the classes of the
    data; nothing is distilled where it is not given."""
    kd: NonNegativeFloat = 1.0
    """Weight of the soft cross entropy with the teacher's logits."""
    temperature: PositiveFloat = 1.0
    """What logits are divided by in `kd`: above 1, classes that the teacher thinks unlikely count more."""
    cwd: NonNegativeFloat = 0.0
    """Weight of the channel-wise term, which compares where in the image each class is seen; 3 in its paper."""
    cwd_temperature: PositiveFloat = 4.0
    """What logits are divided by in `cwd`."""
    feature: NonNegativeFloat = 0.0
    """Weight of the squared difference of what the classifiers read, the student's projected to the teacher's width."""
    pairwise: NonNegativeFloat = 0.0
    """Weight of the pairwise term, which compares how alike the features of two places are."""
    pairwise_nodes: PositiveInt = 16
    """Places along a side that features are averaged to in `pairwise`."""
    cache: Path | None = None
    """Folder where the teacher's logits are kept and found again, for samples that are shown alike in every epoch."""
    cache_classes: PositiveInt | None = None
    """Most likely classes of each place whose logits are kept; the rest share what is left. All where not given."""

    @model_validator(mode="after")
    def _only_what_counts(self) -> "DistillConfig":
        if self.teacher is None:
            self._refuse(
                [name for name in type(self).model_fields if name != "teacher"],
                "without a teacher",
                "give --teacher MODEL",
            )
        elif not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"the teacher teaches nothing: {', '.join(WEIGHTS)} are all 0\n\nhint: set one above 0")
        for name, settings in WEIGHTS.items():
            if not getattr(self, name):
                self._refuse(settings, f"with `{name}: 0`", "leave out the one or the other")
        return self

    @model_validator(mode="after")
    def _cache_holds_what_is_asked(self) -> "DistillConfig":
        if self.cache is None:
            self._refuse(("cache_classes",), "without `cache`", "give the folder of the cache")
            return self
        reasons = [f"`{name}` compares features" for name in OF_FEATURES if getattr(self, name)]
        if self.cwd and self.cache_classes is not None:
            reasons.append("`cwd` compares every class and `cache_classes` keeps some")
        if reasons:
            raise ValueError(f"`cache` holds logits: {', '.join(reasons)}\n\nhint: leave out the cache, or those terms")
        return self

    @property
    def needs_features(self) -> bool:
        """Whether what the classifiers read is compared."""
        return any(getattr(self, name) for name in OF_FEATURES)

    def build(self, *, ignore_index: int) -> "Teaching":
        """Make the terms for labels with this ignored value."""
        return Teaching(self, ignore_index)

    def _refuse(self, names: Iterable[str], without: str, hint: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no effect {without}: got {value}\n\nhint: {hint}")


@dataclass(frozen=True)
class Teaching:
    """The terms of `DistillConfig` whose weights are above 0, on the main heads."""

    config: DistillConfig
    ignore_index: int

    def __call__(
        self, student: TappedOutput, teacher: TappedOutput, labels: Integer[Tensor, "b h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Compare a student with its teacher; gives each term by name, unweighted."""
        with torch.autocast(labels.device.type, enabled=False):
            return {name: self._term(name, student, teacher, labels) for name in WEIGHTS if getattr(self.config, name)}

    def total(self, terms: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Add up the terms by their weights."""
        weighted = [getattr(self.config, name) * value for name, value in terms.items()]
        return torch.stack(weighted).sum()

    def _term(self, name: str, student: TappedOutput, teacher: TappedOutput, labels: Tensor) -> Tensor:
        config, ignore_index = self.config, self.ignore_index
        logits = student.output.logits, teacher.output.logits
        match name:
            case "kd":
                return soft_cross_entropy(*logits, labels, ignore_index=ignore_index, temperature=config.temperature)
            case "cwd":
                return channel_wise(*logits, labels, ignore_index=ignore_index, temperature=config.cwd_temperature)
            case "feature":
                return feature_distance(
                    _given(student.projected), _given(teacher.features), labels, ignore_index=ignore_index
                )
            case _:
                maps = _given(student.features), _given(teacher.features)
                return pairwise(*maps, labels, ignore_index=ignore_index, nodes=config.pairwise_nodes)


def _given(maps: Tensor | None) -> Tensor:
    if maps is None:
        raise ValueError("features are compared: expected models that give them")
    return maps
