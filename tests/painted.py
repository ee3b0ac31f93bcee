"""Data sets made of arrays, for tests."""

import io

import datasets
from PIL import Image

from hfseg.data import TableDataset
from hfseg.labels import LabelSpace


def painted(pairs, space: LabelSpace, **options) -> TableDataset:
    """Make a data set of (image, labels) arrays, whose ids are their numbers."""
    undecoded = datasets.Image(decode=False)
    features = datasets.Features(image=undecoded, label=undecoded, id=datasets.Value("string"))
    rows = [
        {"image": {"bytes": _png(image)}, "label": {"bytes": _png(labels), "path": f"{number}.png"}, "id": str(number)}
        for number, (image, labels) in enumerate(pairs)
    ]
    return TableDataset(datasets.Dataset.from_list(rows, features=features), space, name="painted", **options)


def _png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
