"""State dicts of Once-for-All's networks, made up: each tensor follows from its name and shape alone."""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 72  # 72, 36, 18, 9, 5, 3: odd sizes are pooled too


def tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values none of which is special, so that every one counts, and that keep activations in range."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("_matrix"):
        found = np.eye(shape[0]) + 0.1 * rng.standard_normal(shape)
    elif len(shape) > 1:
        found = np.sqrt(1.6 / np.prod(shape[1:])) * rng.standard_normal(shape)
    elif name.endswith(("bias", "running_mean")):
        found = rng.uniform(-0.5, 0.5, shape)
    else:  # scales and variances of batch norm
        found = rng.uniform(0.5, 1.5, shape)
    return found.astype(np.float32)


def images() -> NDArray[np.float32]:
    """One image, (1, 3, h, w)."""
    return np.random.default_rng(0).standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)


def legacy(name: str) -> str:
    """A name as files of Once-for-All's first version spell it."""
    name = re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", name)
    return re.sub(r"\b(conv|bn|linear)\.\1\.(weight|bias|running_mean|running_var)$", r"\1.\2", name)
