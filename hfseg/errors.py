"""The errors a user can fix. Each says what, where, got and expected, and how to mend it."""


class HfsegError(Exception):
    """A problem that the user can fix; printed as `error:` and `hint:`, without a traceback."""

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class ConfigError(HfsegError):
    """A setting is unknown, of the wrong kind, or at odds with another one."""


class DataError(HfsegError):
    """A data set, an image or a mask is not what it was said to be."""


class ModelError(HfsegError):
    """A model cannot be built, or weights cannot be had or do not fit."""


class CheckpointError(HfsegError):
    """A run folder or a checkpoint cannot be used as asked."""


class LaunchError(HfsegError):
    """The processes, devices or precision that were asked for are not there."""


class RunFailed(HfsegError):
    """A run started well and could not go on; what was saved before stays good."""

    exit_code = 1


class RunInterrupted(HfsegError):
    """A run was stopped by a signal after its state had been saved."""

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int = 143) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code
