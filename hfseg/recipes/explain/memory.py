"""What a place reads of memory, as rows of panels, one for each frame, and as lines of a table."""

from collections.abc import Iterator

from hfseg.models import MemoryMap
from hfseg.recipes.explain.clips import Pixels
from hfseg.viz import HeadRow


def memory_row(found: MemoryMap, pixels: Pixels, *, scale: tuple[float, float], step: int) -> HeadRow:
    """Lay what is read over the frames of a clip; `scale` is how many of their pixels one seen pixel has, down and
    across.
    """
    frames = pixels if pixels.ndim == 4 else pixels[None]
    cell = found.cell_px[0] * scale[0], found.cell_px[1] * scale[1]
    own = found.stride * scale[0], found.stride * scale[1]
    top, left = found.query[0] * own[0], found.query[1] * own[1]
    rows, columns = found.weights.shape[1:]
    cells = f"{rows} x {columns} cells of {cell[1]:.3g} x {cell[0]:.3g} px"
    return HeadRow(
        title=f"memory, {found.what}; {cells}; colours up to the largest weight of these frames",
        weights=found.weights.numpy(),
        cell_px=cell,
        query_px=(left, top, left + own[1], top + own[0]),
        captions=tuple(_caption(found, number, step) for number in range(len(found.ages))),
        pictures=tuple(frames[-1 - ages.start] for ages in found.ages),
    )


def _caption(found: MemoryMap, number: int, step: int) -> tuple[str, str]:
    share, largest = float(found.shares[number]), float(found.weights[number].nan_to_num().max())
    return f"{_when(found.ages[number], step)}: {100 * share:.3g} %", f"max {largest:.2g}"


def _when(ages: range, step: int) -> str:
    first, last = ages[0] * step, ages[-1] * step
    if first != last:
        return f"{first} to {last} frames before"
    return f"{first} frame{'' if first == 1 else 's'} before" if first else "this frame"


def memory_lines(found: MemoryMap, to_image: float, *, step: int) -> Iterator[list[str | int]]:
    """Write a line for each frame, with what is taken from the others, and from other grids, as `elsewhere`."""
    rows, columns = found.weights.shape[1:]
    for ages, weights, share, distance in zip(
        found.ages, found.weights, found.shares.tolist(), found.distance_px.tolist(), strict=True
    ):
        seen = ~weights.isnan()
        facts: list[str | int] = [
            "memory",
            found.softmax + 1,
            -ages[0] * step,
            found.what,
            1,
            rows,
            columns,
            int(seen.sum()),
        ]
        numbers = (float(found.distances[seen].max()) * to_image, distance * to_image)
        shares = (float(weights[seen].max()), 1 - share)
        yield [*facts, *(f"{number:.1f}" for number in numbers), *(f"{each:.6f}" for each in shares)]
