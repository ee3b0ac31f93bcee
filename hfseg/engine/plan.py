"""How long a run is, and at which steps it looks, saves and speaks: known before the first step."""

from dataclasses import dataclass

from pydantic import PositiveFloat, PositiveInt, model_validator

from hfseg.config import Config
from hfseg.errors import ConfigError

DEFAULT_EPOCHS = 50


class TrainConfig(Config):
    """Length and rhythm of a run; a step is one update of the weights."""

    epochs: PositiveFloat | None = None
    """Passes over the training images; 50 where neither `epochs` nor `steps` is given."""
    steps: PositiveInt | None = None
    """Optimizer steps, instead of `epochs`."""
    accumulation: PositiveInt = 1
    """Batches whose gradients are averaged into one step."""
    eval_every: PositiveInt | None = None
    """Steps between validations; where it is not given, an epoch."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; where it is not given, as often as validations."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints that are kept."""
    patience: PositiveInt | None = None
    """Stop after this many validations in a row without a better mIoU."""
    log_every: PositiveInt = 10
    """Steps between log records; losses are fetched from the device then."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"give `epochs` or `steps`, not both: got {self.epochs:g} epochs and {self.steps} steps")
        return self

    def plan(self, batches_per_epoch: int | None) -> "Plan":
        """Turn epochs into steps for a loader of `batches_per_epoch` batches; None where that cannot be known.

        Raises:
            ConfigError: the length of the data is not known and steps were not given.
        """
        if batches_per_epoch is None:
            if self.steps is None or self.eval_every is None:
                raise ConfigError(
                    "a streaming data set has no known length: `train.steps` and `train.eval_every` are needed",
                    hint="for instance --steps 10000 --set train.eval_every=1000",
                )
            return Plan(self, self.steps, None, self.eval_every)
        per_epoch = max(1, batches_per_epoch // self.accumulation)
        epochs = DEFAULT_EPOCHS if self.epochs is None else self.epochs
        num_steps = self.steps or max(1, round(epochs * per_epoch))
        return Plan(self, num_steps, per_epoch, min(self.eval_every or per_epoch, num_steps))


@dataclass(frozen=True)
class Plan:
    """A run's length and rhythm in optimizer steps."""

    config: TrainConfig
    num_steps: int
    steps_per_epoch: int | None
    eval_every: int

    def epoch(self, step: int) -> float | None:
        """Passes over the data after `step` steps, where the length of the data is known."""
        return None if self.steps_per_epoch is None else step / self.steps_per_epoch

    def validates(self, step: int) -> bool:
        """Whether there is a validation after `step` steps."""
        return step % self.eval_every == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        """Whether there is a checkpoint after `step` steps."""
        return step % (self.config.checkpoint_every or self.eval_every) == 0 or step == self.num_steps

    def logs(self, step: int) -> bool:
        """Whether there is a log record after `step` steps."""
        return step % self.config.log_every == 0 or self.validates(step) or self.saves(step)
