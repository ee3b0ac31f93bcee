"""The page of a run that may still be under way: read from its folder when asked for, and what has changed since."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from hfseg.viz.page import draw, render, render_pieces
from hfseg.viz.run import read_run

PAUSE_MS = 5000
"""Between two questions of the page: drawing takes about a second of one core, which the training may need."""
GROWING = ("log.jsonl",)
"""What a run writes to as it goes; all that its folder holds beside decides parts of the page that are not replaced."""
SETTLED = ("metrics.json", "parameters.json", "predictions", "worst", "explain/pictures.json")


@dataclass(frozen=True)
class Stamp:
    """The state of a run's files: of those that grow, and of the others."""

    growing: str
    settled: str

    def __str__(self) -> str:
        return f"{self.growing}|{self.settled}"


class LivePage:
    """Reads a run folder and writes nothing; may be asked from several threads.

    Raises:
        CheckpointError: the folder is no run, or a file in it is damaged.
    """

    def __init__(self, run_dir: Path) -> None:
        read_run(run_dir)
        self.run_dir = run_dir
        self._drawing = Lock()  # Matplotlib's settings belong to the process
        self._pieces: tuple[str, dict[str, str]] = ("", {})

    def html(self) -> str:
        """Write the page as it is now.

        Raises:
            CheckpointError: the folder is no run, or a file in it is damaged.
        """
        stamp = self.stamp()  # before reading: what comes meanwhile is asked for again
        run = read_run(self.run_dir)
        with self._drawing:
            return render(run, draw(run), live={"stamp": str(stamp), "pause_ms": PAUSE_MS})

    def changes(self, since: str) -> dict[str, Any] | None:
        """Give the pieces that are not as they were at the stamp `since`, or that the page is to be loaded again.

        None where nothing has changed.

        Raises:
            CheckpointError: the folder is no run, or a file in it is damaged.
        """
        stamp = self.stamp()
        if str(stamp) == since:
            return None
        if since.partition("|")[2] != stamp.settled:
            return {"reload": True}
        return {"reload": False, "stamp": str(stamp), "pieces": self._drawn(str(stamp))}

    def stamp(self) -> Stamp:
        """Look at the sizes and times of the run's files."""
        return Stamp(self._state(GROWING), self._state(SETTLED))

    def _drawn(self, stamp: str) -> dict[str, str]:
        """Draw once for all who ask at the same state."""
        with self._drawing:
            if self._pieces[0] != stamp:
                self._pieces = stamp, render_pieces(read_run(self.run_dir))
            return self._pieces[1]

    def _state(self, names: tuple[str, ...]) -> str:
        """Write the times and sizes of the files that are there in a few letters."""
        facts = [(name, path.stat()) for name in names if (path := self.run_dir / name).exists()]
        text = repr([(name, fact.st_size, fact.st_mtime_ns) for name, fact in facts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
