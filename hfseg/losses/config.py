"""The settings of losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator
from torch import Tensor

from hfseg.config import Config
from hfseg.errors import ConfigError
from hfseg.losses.class_weights import balanced_weights, read_weights
from hfseg.losses.total import TERMS, Loss, parse_terms

Share = Annotated[float, Field(gt=0, le=1)]


class LossConfig(Config):
    """What is minimized."""

    terms: str = "ce"
    """A loss, or a weighted sum such as `ce+0.5*dice`: ce, ohem, focal, boundary, dice, tversky, lovasz; terms are
    logged by name, unweighted."""
    auxiliary_weight: NonNegativeFloat = 0.4
    """Weight of the same sum on the auxiliary head, where the model has one."""
    class_weights: str = "none"
    """How much a class counts in ce, ohem, focal and boundary: `none`, `auto` (from the training masks, more for rare
    classes), or a YAML file with a weight for each class."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target of ce that is spread over all classes."""
    ohem_threshold: Share = 0.7
    """Pixels whose label has a probability below this count in ohem."""
    ohem_min_kept: Share = 1 / 16
    """Share of the labelled pixels that count in ohem at least, the hardest ones."""
    focal_gamma: NonNegativeFloat = 2.0
    """How strongly focal turns away from pixels that are right; 0 is cross entropy."""
    boundary_width: PositiveInt = 3
    """Pixels from another class up to which a pixel counts more in boundary."""
    boundary_gain: NonNegativeFloat = 4.0
    """How many times more than others such a pixel counts in boundary; 0 is cross entropy."""
    tversky_false_positive: NonNegativeFloat = 0.3
    """Weight of wrongly claimed pixels in tversky."""
    tversky_false_negative: NonNegativeFloat = 0.7
    """Weight of missed pixels in tversky."""

    @field_validator("terms")
    @classmethod
    def _known(cls, value: str) -> str:
        parse_terms(value)
        return value

    @model_validator(mode="after")
    def _only_what_counts(self) -> "LossConfig":
        used = {setting for name in parse_terms(self.terms) for setting in TERMS[name].settings}
        for setting in {setting for term in TERMS.values() for setting in term.settings} - used:
            value = getattr(self, setting)
            if value != type(self).model_fields[setting].default:
                takers = ", ".join(name for name, term in TERMS.items() if setting in term.settings)
                raise ValueError(
                    f"`{setting}` has no effect on `{self.terms}`: got {value!r}\n\nhint: it belongs to {takers}"
                )
        return self

    def build(
        self,
        *,
        ignore_index: int = 255,
        names: Sequence[str] = (),
        class_pixels: Sequence[int] | None = None,
    ) -> Loss:
        """Make the loss for labels of these classes; `class_pixels` are what `auto` weights are made from.

        Raises:
            ConfigError: the weights of the classes cannot be had.
        """
        settings = {setting: getattr(self, setting) for term in TERMS.values() for setting in term.settings}
        settings["class_weights"] = self._weights(names, class_pixels)
        return Loss(parse_terms(self.terms), self.auxiliary_weight, ignore_index, settings)

    def unweighted(self) -> "LossConfig":
        """The same without class weights, which belong to a training set."""
        return self.model_copy(update={"class_weights": "none"})

    @property
    def needs_class_pixels(self) -> bool:
        """Whether `build` must be told how many pixels each class has."""
        return self.class_weights == "auto"

    def _weights(self, names: Sequence[str], class_pixels: Sequence[int] | None) -> Float[Tensor, " k"] | None:
        if self.class_weights == "none":
            return None
        if not self.needs_class_pixels:
            return read_weights(Path(self.class_weights), names)
        if class_pixels is None:
            raise ConfigError(
                "`loss.class_weights` is `auto` and the pixels of the classes are not known",
                hint="a stream cannot be counted: give the weights in a YAML file",
            )
        return balanced_weights(class_pixels)
