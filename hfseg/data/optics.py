"""What lenses and air do to an image: kernels of blur, convolution with them, and clouds."""

import numpy as np
from jaxtyping import Float, Float32

LARGEST_CLOUD_PX = 2048
"""Beyond this a cloud is repeated; it has no seam."""


def convolve(image: Float32[np.ndarray, "h w 3"], kernel: Float[np.ndarray, "n n"]) -> Float32[np.ndarray, "h w 3"]:
    """Convolve each channel with an odd-sized kernel; beyond the edge the edge is repeated."""
    radius = len(kernel) // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    size = padded.shape[:2]
    centred = np.zeros(size, dtype=np.float32)
    centred[: len(kernel), : len(kernel)] = kernel
    centred = np.roll(centred, (-radius, -radius), axis=(0, 1))
    product = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(centred)[..., None]
    blurred: Float32[np.ndarray, "h2 w2 3"] = np.fft.irfft2(product, s=size, axes=(0, 1))
    return blurred[radius : size[0] - radius, radius : size[1] - radius]


def gaussian_kernel(sigma: float, *, radius: int) -> Float[np.ndarray, "n n"]:
    """Make a Gaussian of `sigma` pixels, cut off at `radius`."""
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    line /= line.sum()
    return np.outer(line, line)


def disk_kernel(radius: int, softness: float) -> Float[np.ndarray, "n n"]:
    """Make a disk whose edge is softened by a Gaussian of 5 x 5 pixels."""
    margin = 2
    squares = np.arange(-radius - margin, radius + margin + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(np.float64)
    soft = gaussian_kernel(softness, radius=margin)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(disk, margin), soft.shape)
    kernel: Float[np.ndarray, "n n"] = np.einsum("ijkl,kl->ij", around, soft / disk.sum())
    return kernel


def streak_kernel(radius: int, sigma: float, *, angle: float) -> Float[np.ndarray, "n n"]:
    """Make a line of 2 radius + 1 pixels that fades as half a Gaussian, `angle` degrees from the horizontal.

    Its centre of mass lies in the middle; each point of it is shared among the four pixels around.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    along = steps - (weights * steps).sum()
    reach = 2 * radius + 1
    columns, rows = along * np.cos(np.deg2rad(angle)) + reach, along * np.sin(np.deg2rad(angle)) + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for row, of_row in ((top, top + 1 - rows), (top + 1, rows - top)):
        for column, of_column in ((left, left + 1 - columns), (left + 1, columns - left)):
            np.add.at(kernel, (row, column), weights * of_row * of_column)
    return kernel


def cloud(size: tuple[int, ...], *, decay: float, rng: np.random.Generator) -> Float32[np.ndarray, "h w"]:
    """Make a fractal pattern of 0 to 1 (height, width), the smoother the larger `decay`.

    Source: the diamond-square algorithm on a torus (Fournier, Fussell & Carpenter, 1982); the height of its bumps falls
    by the square of `decay` at each halving, as in ImageNet-C.
    """
    side = min(2 ** max(1, (max(size) - 1).bit_length()), LARGEST_CLOUD_PX)
    heights, bump = np.zeros((1, 1), dtype=np.float32), 1.0
    while len(heights) < side:
        heights, bump = _halved(heights, bump, rng), bump / decay**2
    heights -= heights.min()
    heights /= heights.max()
    return heights[np.ix_(*(np.arange(length) % side for length in size))]


def _halved(
    corners: Float32[np.ndarray, "n n"], bump: float, rng: np.random.Generator
) -> Float32[np.ndarray, "2*n 2*n"]:
    """Halve the mesh: each new point is the mean of its four neighbours and a random bump."""

    def between(*neighbours: Float32[np.ndarray, "n n"]) -> Float32[np.ndarray, "n n"]:
        mean: Float32[np.ndarray, "n n"] = sum(neighbours, np.zeros_like(corners)) / np.float32(4)
        return mean + rng.uniform(-bump, bump, corners.shape).astype(np.float32)

    below, right = np.roll(corners, -1, axis=0), np.roll(corners, -1, axis=1)
    middles = between(corners, below, right, np.roll(below, -1, axis=1))
    finer = np.empty((2 * len(corners), 2 * len(corners)), dtype=np.float32)
    finer[::2, ::2], finer[1::2, 1::2] = corners, middles
    finer[::2, 1::2] = between(corners, right, middles, np.roll(middles, 1, axis=0))
    finer[1::2, ::2] = between(corners, below, middles, np.roll(middles, 1, axis=1))
    return finer
