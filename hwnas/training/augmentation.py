"""Augmentation as tensor operations on a batch, drawn image by image from one generator.

Images are (n, c, h, w); their shape stays. `augment` does what the settings of a training name, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hwnas.config import Training


def augment(
    images: Tensor,
    labels: Tensor,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    settings: Training,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Images, normalised by `mean` and `std`, and labels (n,), as a training sees them.

    Mixed images have mixed labels, (n, classes), that sum to 1.
    """
    if settings.crop_area < 1:
        images = crop(images, settings.crop_area, rng)
    if settings.crop_padding:
        images = shift(images, settings.crop_padding, rng)
    if settings.flip:
        images = flip(images, rng)
    if settings.trivial_augment:
        scale, offset = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (std, mean))
        images = (trivial_augment((images * scale + offset).clamp(0, 1), rng) - offset) / scale
    if settings.cutout:
        images = cutout(images, settings.cutout, rng)
    if settings.mixup:
        return mixup(images, labels, classes, settings.mixup, rng)
    return images, labels


def shift(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """Each shifted by up to `padding` pixels each way. What a shift uncovers repeats the border."""
    n, _, height, width = images.shape
    down, right = torch.from_numpy(rng.integers(0, 2 * padding + 1, (2, n, 1)))
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    padded = F.pad(images, (padding, padding, padding, padding), mode="replicate")
    every, channels = torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    return padded[every, channels, rows, columns]


def flip(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each mirrored left to right half the time."""
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)[:, None, None, None]
    return torch.where(mirrored, images.flip(3), images)


ASPECT = 4 / 3  # of a crop's sides, at most


def crop(images: Tensor, least_area: float, rng: np.random.Generator) -> Tensor:
    """A part of each, of at least this share of its area, stretched to full size: arXiv 1409.4842."""
    n = len(images)
    sides = _crop_sides(n, least_area, rng)
    middle = rng.uniform(-1, 1, (2, n)) * (1 - sides)
    zero = np.zeros(n)
    return _warp(images, [[sides[0], zero, middle[0]], [zero, sides[1], middle[1]]])


def _crop_sides(n: int, least_area: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Width and height, (2, n), of crops as shares of the image's: of an aspect that lets the area fit in."""
    area = rng.uniform(least_area, 1, n)
    widest = np.log(np.minimum(ASPECT, 1 / area))
    aspect = np.exp(rng.uniform(-widest, widest))
    return np.sqrt([area * aspect, area / aspect]).clip(max=1)  # but for rounding they are


def cutout(images: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """A square of each at the mean (0), its centre anywhere in the image: https://arxiv.org/abs/1708.04552."""
    inside = []
    for size in images.shape[2:]:
        start = torch.from_numpy(rng.integers(0, size, (len(images), 1))) - side // 2
        inside.append((torch.arange(size) >= start) & (torch.arange(size) < start + side))
    return images.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0.0)


def mixup(
    images: Tensor, labels: Tensor, classes: int, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Each mixed with another, and so the labels, (n, classes); shares of Beta(alpha, alpha).

    One share for the batch: https://arxiv.org/abs/1710.09412.
    """
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(images)))
    hard = F.one_hot(labels, classes).to(images.dtype)
    return images.lerp(images[other], 1 - share), hard.lerp(hard[other], 1 - share)


# ---- TrivialAugment -------------------------------------------------------------------------------

STRENGTHS = 31
SHEAR, TRANSLATION, ROTATION = 0.99, 32, math.radians(135)  # at full strength; pixels, radians
FACTOR = 0.99  # at full strength a colour operation blends by 1 ± this
LEAST_BITS = 2
LUMA = (0.299, 0.587, 0.114)

Strengths = NDArray[np.float64]  # (n,), -1…1; the sign is that of what has a direction


def trivial_augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """One operation on each, at a random strength: TrivialAugment's wide space, arXiv 2103.10158.

    Images have values in 0…1. What a geometric operation uncovers is black.
    """
    n = len(images)
    operation = rng.integers(0, len(OPERATIONS), n)
    strength = rng.integers(0, STRENGTHS, n) / (STRENGTHS - 1) * rng.choice([-1, 1], n)
    changed = images.clone()
    for number, operate in enumerate(OPERATIONS.values()):
        chosen = np.flatnonzero(operation == number)
        if len(chosen):
            at = torch.from_numpy(chosen)
            changed[at] = operate(images[at], strength[chosen])
    return changed


def _identity(images: Tensor, strength: Strengths) -> Tensor:
    return images


def _shear_x(images: Tensor, strength: Strengths) -> Tensor:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return _warp(images, [[one, SHEAR * strength, zero], [zero, one, zero]])


def _shear_y(images: Tensor, strength: Strengths) -> Tensor:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return _warp(images, [[one, zero, zero], [SHEAR * strength, one, zero]])


def _translate_x(images: Tensor, strength: Strengths) -> Tensor:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return _warp(images, [[one, zero, 2 * TRANSLATION * strength / images.shape[3]], [zero, one, zero]])


def _translate_y(images: Tensor, strength: Strengths) -> Tensor:
    one, zero = np.ones_like(strength), np.zeros_like(strength)
    return _warp(images, [[one, zero, zero], [zero, one, 2 * TRANSLATION * strength / images.shape[2]]])


def _rotate(images: Tensor, strength: Strengths) -> Tensor:
    cos, sin, zero = np.cos(ROTATION * strength), np.sin(ROTATION * strength), np.zeros_like(strength)
    stretch = images.shape[2] / images.shape[3]
    return _warp(images, [[cos, -sin * stretch, zero], [sin / stretch, cos, zero]])


def _warp(images: Tensor, matrix: Sequence[Sequence[NDArray[np.float64]]]) -> Tensor:
    """Each resampled at ``matrix @ (x, y, 1)``, where x and y are -1…1 over the image; black outside."""
    theta = torch.from_numpy(np.array(matrix).transpose(2, 0, 1)).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _brightness(images: Tensor, strength: Strengths) -> Tensor:
    return _blend(torch.zeros_like(images), images, strength)


def _colour(images: Tensor, strength: Strengths) -> Tensor:
    return _blend(_grey(images), images, strength)


def _contrast(images: Tensor, strength: Strengths) -> Tensor:
    return _blend(_grey(images).mean((1, 2, 3), keepdim=True), images, strength)


def _sharpness(images: Tensor, strength: Strengths) -> Tensor:
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5
    weight = (kernel / kernel.sum()).expand(images.shape[1], 1, 3, 3)
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(images, weight, groups=images.shape[1])
    return _blend(blurred, images, strength)


def _blend(other: Tensor, images: Tensor, strength: Strengths) -> Tensor:
    """Between another image (0) and beyond the image itself (2)."""
    factor = torch.from_numpy(1 + FACTOR * strength).to(images.dtype)[:, None, None, None]
    return (other + factor * (images - other)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """(n, 1, h, w); the brightness of three channels, the mean of any other number."""
    if images.shape[1] != len(LUMA):
        return images.mean(1, keepdim=True)
    return (images * torch.tensor(LUMA).reshape(1, -1, 1, 1)).sum(1, keepdim=True)


def _posterize(images: Tensor, strength: Strengths) -> Tensor:
    bits = 8 - np.rint((8 - LEAST_BITS) * np.abs(strength))
    step = torch.from_numpy(2 ** (8 - bits)).to(images.dtype)[:, None, None, None]
    return (images * 255).round().div(step, rounding_mode="floor") * step / 255


def _solarize(images: Tensor, strength: Strengths) -> Tensor:
    threshold = torch.from_numpy(1 - np.abs(strength)).to(images.dtype)[:, None, None, None]
    return torch.where(images > threshold, 1 - images, images)


def _autocontrast(images: Tensor, strength: Strengths) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def _equalize(images: Tensor, strength: Strengths) -> Tensor:
    levels = (images * 255).round().long().flatten(2)
    ones = torch.ones_like(levels, dtype=images.dtype)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=images.dtype).scatter_add_(2, levels, ones)
    darkest = counts.gather(2, levels.amin(2, keepdim=True))
    brighter = levels.shape[2] - darkest
    spread = ((counts.cumsum(2) - darkest) / brighter.clamp(min=1)).gather(2, levels)
    return torch.where(brighter[..., None] > 0, spread.reshape(images.shape), images)


OPERATIONS: dict[str, Callable[[Tensor, Strengths], Tensor]] = {
    "identity": _identity,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
