"""What a run says while it goes on: `log.jsonl`, Accelerate's trackers, and a progress bar or plain lines."""

import json
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hfseg.engine.runtime import Runtime

Record = dict[str, Any]


class RunLog:
    """Appends records to `log.jsonl` and hands their numbers to the trackers; only the main process writes."""

    def __init__(self, path: Path, runtime: Runtime, *, keep_bytes: int = 0) -> None:
        """Open the log, cut back to its first `keep_bytes` bytes: what was logged after the state one goes on from."""
        self._runtime = runtime
        self._file = None
        if runtime.is_main:
            self._file = path.open("a", encoding="utf-8")
            self._file.truncate(min(keep_bytes, path.stat().st_size))

    def write(self, event: str, step: int, **values: Any) -> Record:
        """Add one record; numbers also go to the trackers as `event/name`."""
        record = {"event": event, "step": step, **values}
        if self._file is not None:
            self._file.write(json.dumps({key: _json_number(value) for key, value in record.items()}) + "\n")
            self._file.flush()
        numbers = {f"{event}/{key}": value for key, value in values.items() if isinstance(value, float | int)}
        self._runtime.accelerator.log(numbers, step=step)
        return record

    def sync(self) -> int:
        """Bring the log onto the disk and give its length in bytes."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._file is not None:
            self._file.close()
        if self._runtime.config.trackers:
            self._runtime.accelerator.end_training()


def _json_number(value: Any) -> Any:
    """JSON has no NaN; a class without pixels has no IoU."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_json_number(item) for item in value] if isinstance(value, list | tuple) else value


class TrainProgress:
    """A progress bar on a terminal, plain lines elsewhere, nothing where it is not the main process."""

    def __init__(self, num_steps: int, runtime: Runtime, *, start: int = 0) -> None:
        self._console = Console(stderr=True, quiet=not runtime.is_main)
        self._num_steps = num_steps
        self._best = "-"
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal and runtime.is_main:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]:.1f}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]}  lr {task.fields[lr]}"),
                TextColumn("{task.fields[speed]} images/s  best mIoU {task.fields[best]}  left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            blank = {"epoch": 0.0, "loss": "-", "lr": "-", "speed": "-", "best": "-"}
            self._task = self._bar.add_task("train", total=num_steps, completed=start, **blank)

    def __enter__(self) -> "TrainProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def train(self, record: Record) -> None:
        """Show the means since the last time."""
        loss, lr, speed = f"{record['loss']:.4f}", f"{record['lr']:.2e}", f"{record['images_per_s']:.1f}"
        if self._bar is not None:
            self._bar.update(self._task, epoch=record["epoch"] or 0.0, loss=loss, lr=lr, speed=speed)
        else:
            epoch = "" if record["epoch"] is None else f"  epoch {record['epoch']:.2f}"
            self.say(f"step {record['step']}/{self._num_steps}{epoch}  loss {loss}  lr {lr}  {speed} images/s")

    def validation(self, record: Record) -> None:
        """Show a validation's scores, and whether they are the best so far."""
        miou = f"{100 * record['mean_iou']:.2f} %"
        if record["best_miou"]:
            self._best = miou
        if self._bar is not None:
            self._bar.update(self._task, best=self._best)
        best = [name for name, key in (("mIoU", "best_miou"), ("loss", "best_loss")) if record[key]]
        star = f"  best {' and '.join(best)}" if best else ""
        accuracy = f"{100 * record['overall_accuracy']:.2f} %"
        loss = "" if record["loss"] is None else f"  loss {record['loss']:.4f}"
        self.say(f"validation at step {record['step']}: mIoU {miou}  pixel accuracy {accuracy}{loss}{star}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)
        sys.stderr.flush()
