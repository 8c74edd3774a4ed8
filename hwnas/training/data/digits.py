"""Scenes of handwritten digits, made on the spot: a dataset that needs no files."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from hwnas.training.data.base import SPLITS, Source, Split, check_positive
from hwnas.training.data.stored import Check, Held

SCENE = 24  # pixels
SOURCES = {"train": 1150, "validation": 250, "test": 397}  # of the 1797 bundled digits
DIGIT_SCALE = (1.5, 2.2)  # scene pixels a source pixel
DIGIT_TURN = math.radians(20)  # at most, either way
DIGIT_SHIFT = 4.0  # scene pixels at most, each way
DISTRACTORS = 4
PATCH = 7  # scene pixels
NOISE = 0.1  # standard deviation, of values in 0…1
DIGITS_MEAN, DIGITS_STD = 0.22, 0.29


def cluttered_digits(
    split: Split, seed: int, train: int = 40000, validation: int = 2000, test: int = 4000
) -> Source:
    """24×24 scenes of one whole digit among pieces of others; `train`, `validation`, `test` are how many.

    A source digit of scikit-learn's bundled set (8×8) is scaled, turned and shifted at random; four
    patches cut from other scenes' digits and noise are laid over it. The source digits are divided between
    the splits before any scene is made, so that no two splits share one.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for part, size in sizes.items():
        check_positive(f"cluttered-digits: {part}", size, "images")
    bundled = load_digits()
    order = np.random.default_rng(seed).permutation(len(bundled.target))
    start = sum(SOURCES[before] for before in SPLITS[: SPLITS.index(split)])
    sources = order[start : start + SOURCES[split]]
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    chosen = rng.choice(sources, sizes[split])

    def stored(_: Check) -> Held:
        digits = _placed(bundled.images[chosen].astype(np.float32) / 16, rng)
        scenes = _cluttered(digits, rng)
        scenes += rng.normal(0, NOISE, scenes.shape).astype(np.float32)
        return Held(torch.from_numpy(np.rint(scenes.clip(0, 1) * 255).astype(np.uint8)[:, None]))

    return Source(
        stored,
        bundled.target[chosen].astype(np.int64),
        tuple(str(name) for name in bundled.target_names),
        (DIGITS_MEAN,),
        (DIGITS_STD,),
        f"grey scenes of {SCENE}×{SCENE} pixels",
    )


def _placed(sources: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, s, s) sources at random scale, angle and place in (n, SCENE, SCENE), bilinear."""
    n, s, _ = sources.shape
    scale = rng.uniform(*DIGIT_SCALE, (n, 1, 1)).astype(np.float32)
    angle = rng.uniform(-DIGIT_TURN, DIGIT_TURN, (n, 1, 1)).astype(np.float32)
    shift = rng.uniform(-DIGIT_SHIFT, DIGIT_SHIFT, (2, n, 1, 1)).astype(np.float32)
    axis = np.arange(SCENE, dtype=np.float32) - (SCENE - 1) / 2
    y, x = axis[None, :, None] - shift[0], axis[None, None, :] - shift[1]
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    # Coordinates in the source with one pixel of black around it; what lies outside is clipped onto that.
    last = np.float32(s + 1) - np.float32(1e-3)
    source_y = np.clip(cos * y - sin * x + (s + 1) / 2, 0, last)
    source_x = np.clip(sin * y + cos * x + (s + 1) / 2, 0, last)
    top, left = source_y.astype(np.int64), source_x.astype(np.int64)
    down, right = source_y - top, source_x - left
    flat = np.pad(sources, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    at = np.arange(n)[:, None, None] * (s + 2) ** 2 + top * (s + 2) + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + s + 2] * (1 - right) + flat[at + s + 3] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)


def _cluttered(digits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each scene with patches of other scenes' digits laid over it, the brighter pixel winning."""
    n, scenes, span = len(digits), digits.copy(), np.arange(PATCH)
    every = np.arange(n)
    for _ in range(DISTRACTORS):
        other = (every + rng.integers(1, max(n, 2), n)) % n
        # Cut from the middle, where a digit is, and laid anywhere, partly outside too.
        cut = rng.integers(4, SCENE - PATCH - 3, (2, n, 1))
        lay = rng.integers(0, SCENE - PATCH + 1, (2, n, 1))
        patch = digits[other[:, None, None], (cut[0] + span)[:, :, None], (cut[1] + span)[:, None, :]]
        place = every[:, None, None], (lay[0] + span)[:, :, None], (lay[1] + span)[:, None, :]
        scenes[place] = np.maximum(scenes[place], patch)
    return scenes
