"""A label space in a model's config: names, colours and the ignored value travel with the weights.

Transformers keeps attributes that a config class does not know, so the colours live in the extra attribute `palette`,
which plain Transformers carries along and does not look at.
"""

from typing import Any

from hfseg.errors import ModelError
from hfseg.labels import IGNORE_INDEX, LabelSpace

PALETTE = "palette"
IGNORE_FIELDS = ("semantic_loss_ignore_index", "loss_ignore_index")
"""What the config classes of Transformers call the ignored label."""
WIDE_IGNORE_INDEX = 65535
"""Stands for the ignored label where 255 is a class."""


def write_labels(config: Any, labels: LabelSpace) -> None:
    """Write names, colours and the ignored value into a Transformers config."""
    config.id2label = labels.id2label
    config.label2id = {name: index for index, name in labels.id2label.items()}
    setattr(config, PALETTE, [list(color) for color in labels.palette])
    fields = [field for field in IGNORE_FIELDS if hasattr(config, field)]
    for field in fields or IGNORE_FIELDS[:1]:
        setattr(config, field, labels.ignore_index)


def read_labels(config: Any) -> LabelSpace:
    """Read the label space of a Transformers config, with the usual colours where it holds none.

    Raw values of masks are taken to be the train ids: how a data set's own values are mapped is not in a model.

    Raises:
        ModelError: the palette is not one colour per class.
    """
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    palette = getattr(config, PALETTE, None)
    if palette is not None and (len(palette) != len(names) or not all(len(color) == 3 for color in palette)):
        raise ModelError(
            f"`{PALETTE}` in config.json has {len(palette)} colours: expected {len(names)} of three numbers"
        )
    ignore_index = next((getattr(config, field) for field in IGNORE_FIELDS if hasattr(config, field)), IGNORE_INDEX)
    if 0 <= ignore_index < len(names):
        ignore_index = WIDE_IGNORE_INDEX
    return LabelSpace.from_names(names, palette=palette, ignore_index=ignore_index)
