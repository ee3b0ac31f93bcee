"""What is published about a data set, as `assets` holds it: classes, raw values, colours and the sizes of the parts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from hfseg.data.table import Split
from hfseg.labels import IGNORE_INDEX, LabelSpace

log = logging.getLogger(__name__)
ASSETS_DIR = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Official:
    """The published facts of one data set."""

    name: str
    labels: LabelSpace
    num_samples: Mapping[Split, int]
    """Samples of each part that has labels."""
    tree: Mapping[str, Any]
    """The whole file, for what only one data set needs."""

    def compare_size(self, split: Split, count: int, *, samples: str = "samples") -> None:
        """Warn where a part holds another number of samples than the published one, whose sizes are under `samples`."""
        expected = self.tree[samples][split]
        if count != expected:
            log.warning(
                "the `%s` part of %s holds %d samples: the published one has %d", split, self.name, count, expected
            )


@lru_cache
def official(name: str) -> Official:
    """Read `assets/NAME.yaml`: rows of raw value, name and colour, under `classes` and under `ignored`.

    The raw value 255 is ignored too.
    """
    tree = yaml.safe_load((ASSETS_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
    raws, names, palette = zip(*tree["classes"], strict=True)
    table = dict.fromkeys((IGNORE_INDEX, *(row[0] for row in tree.get("ignored", ()))), IGNORE_INDEX)
    table |= {raw: label for label, raw in enumerate(raws)}
    labels = LabelSpace(names, tuple((r, g, b) for r, g, b in palette), table)
    return Official(name, labels, tree["samples"], tree)


def official_labels(name: str) -> LabelSpace:
    """Give the published classes of a data set, and how its raw values become train ids."""
    return official(name).labels
