"""The folders of a run that the main process writes while the others wait."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hfseg.engine.capture import Capture, save_capture
from hfseg.engine.checkpoint import TrainingState, newest_first, replace_folder, save_checkpoint
from hfseg.engine.runtime import Runtime
from hfseg.engine.trainable import Trainable
from hfseg.errors import RunFailed


@dataclass(frozen=True)
class Output:
    """Where a run writes; every process must make the same calls."""

    path: Path
    runtime: Runtime

    def export(self, name: str, export: Callable[[Path], None]) -> None:
        """Put a model folder in the place of the one before.

        Raises:
            RunFailed: the disk is full or cannot be written.
        """
        self._write(name, lambda folder: replace_folder(folder, export))

    def save(self, state: Callable[[], TrainingState], *, keep: int) -> None:
        """Write a checkpoint of what `state` gives in the main process.

        Raises:
            RunFailed: the disk is full or cannot be written.
        """
        self.runtime.on_main(lambda: save_checkpoint(self.path / "checkpoints", state(), keep=keep))

    def fail(self, capture: Capture, trainable: Trainable) -> NoReturn:
        """Keep the weights before a step that went wrong, in `nan/`, and give up.

        Raises:
            RunFailed: always.
        """
        newest = next(newest_first(self.path / "checkpoints"), None)
        hints = [f"the last good checkpoint is `{newest}`" if newest else "there is no checkpoint yet"]
        if trainable.guard.is_exact:
            trainable.guard.restore()
            weights = trainable.weights()
            self._write("nan", lambda folder: save_capture(folder, capture, weights))
            hints.append(f"to look closer: hfseg finetune --replay {self.path / 'nan' / capture.name}")
        hints.append("a lower --lr, `--set optim.clip_norm=1` or `--precision no` may help")
        raise RunFailed(str(capture.breakdown), hint="; ".join(hints))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        def attempt() -> None:
            try:
                write(self.path / name)
            except OSError as error:
                raise RunFailed(
                    f"`{self.path / name}` cannot be written: {error.strerror or error}",
                    hint="make room, then go on with --resume",
                ) from None

        self.runtime.on_main(attempt)
