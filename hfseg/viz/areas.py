"""How much of a picture each class takes, as a table of a page."""

import numpy as np
from jaxtyping import Integer

from hfseg.labels import IGNORE, LabelSpace
from hfseg.viz.html import render_part
from hfseg.viz.numbers import count, percent
from hfseg.viz.paint import shares


def areas_html(ids: Integer[np.ndarray, "h w"], labels: LabelSpace) -> str:
    """Write the classes that a map of class ids holds as an HTML table, the largest first; names are escaped."""
    of_class, of_ignore = shares(ids, labels)
    order = sorted(np.flatnonzero(of_class).tolist(), key=lambda index: -of_class[index])
    rows: list[tuple[str, str | None, float]] = [
        (labels.names[index], "#" + bytes(labels.palette[index]).hex(), of_class[index]) for index in order
    ]
    rows += [(IGNORE, None, of_ignore)] if of_ignore else []
    cells = [
        {"name": name, "hex": color, "width": f"{100 * share:.2f}%", "share": percent(share)}
        | {"pixels": count(round(share * ids.size))}
        for name, color, share in rows
    ]
    return render_part("areas.html.j2", rows=cells, width=ids.shape[1], height=ids.shape[0])
