"""The sizes at which images are shown to models: the only place where they are computed."""


def scaled_size(size: tuple[int, int], *, short_side: int | None, scale: float = 1.0) -> tuple[int, int]:
    """Give the height and width at which the shorter side is `short_side` times `scale`."""
    factor = scale if short_side is None else scale * short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
