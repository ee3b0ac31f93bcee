"""`hfseg report`: rebuild a run's page and plots from its folder."""

from pathlib import Path

from hfseg.viz import build_report


def run(folder: Path) -> Path:
    """Write `report.html` and `plots/` of the run in `folder`, and give the page's path."""
    return build_report(folder)
