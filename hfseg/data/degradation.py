"""Blur and noise of a whole batch, each image by its own strength; no number depends on the other images."""

import math

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn.functional import conv2d, pad

from hfseg.data.augment import AugmentConfig


def blur(
    images: Float[Tensor, "b 3 h w"], draws: Float[Tensor, "b 2"], augment: AugmentConfig
) -> Float[Tensor, "b 3 h w"]:
    """Blur the images whose first number says so, with a deviation by the second one.

    Source: Chen et al., SimCLR, ICML 2020, appendix A (its range of deviations).
    """
    low, high = augment.blur_sigma
    sigma = low + (high - low) * draws[:, 1]
    blurred = gaussian_blur(images, sigma, radius=math.ceil(3 * high))
    return torch.where((draws[:, 0] < augment.blur)[:, None, None, None], blurred, images)


def gaussian_blur(
    images: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], *, radius: int
) -> Float[Tensor, "b 3 h w"]:
    """Blur each image by a Gaussian of its own deviation in pixels, cut off at `radius`; edges are repeated."""
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, dim=0)[:, None, None]
    planes = pad(images.flatten(0, 1)[None], (radius,) * 4, mode="replicate")
    rows = conv2d(planes, taps, groups=len(taps))
    return conv2d(rows, taps.transpose(2, 3), groups=len(taps)).view_as(images)


def add_noise(
    images: Float[Tensor, "b 3 h w"], draws: Float[Tensor, "b 3"], augment: AugmentConfig
) -> Float[Tensor, "b 3 h w"]:
    """Add Gaussian noise to the images whose first number says so, with a deviation by the second, from the third."""
    strength = torch.where(draws[:, 0] < augment.noise, draws[:, 1] * augment.noise_std, 0.0)
    noise = normal_numbers(draws[:, 2], images[0].numel()).view_as(images)
    return noise.mul_(strength[:, None, None, None]).add_(images).clamp_(0, 1)


def normal_numbers(draws: Float[Tensor, " b"], count: int) -> Float[Tensor, "b n"]:
    """Turn one uniform number of each sample into `count` normal ones: hashes of a counter, so the same on any device.

    A generator would have to be seeded for each sample, on the host, and gives other numbers on other devices.
    """
    counter = torch.arange(count, dtype=torch.int32, device=draws.device)
    key = _mixed((draws * 2**24).int())  # a float32 draw has 24 bits
    bits = _mixed(_mixed(counter) ^ key[:, None])
    uniform = (bits >> 9).to(draws.dtype).add_(0.5).mul_(2.0**-22)  # in (-1, 1): 23 bits, all that a float32 holds
    return uniform.erfinv_().mul_(math.sqrt(2))


def _mixed(bits: Int32[Tensor, "..."]) -> Int32[Tensor, "..."]:
    """Scramble 32-bit numbers, so that close ones become unlike; one to one. Products keep their low 32 bits.

    Shifts draw in copies of the sign, which are masked away. In place where it can be: six times faster on a CPU.
    Source: the constants of `lowbias32`, C. Wellons, nullprogram.com/blog/2018/07/31.
    """
    bits = (bits >> 16).bitwise_and_(0xFFFF).bitwise_xor_(bits).mul_(0x7FEB352D)
    bits = (bits >> 15).bitwise_and_(0x1FFFF).bitwise_xor_(bits).mul_(0x846CA68B - 2**32)
    return (bits >> 16).bitwise_and_(0xFFFF).bitwise_xor_(bits)
