"""Checks of the plain data that spaces are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hwnas.errors import SpaceError

MOST = 100_000  # pixels, channels, classes: more is a mistake, and would take all memory
MOST_LAYERS = 1000  # of a stage


def check_input(resolutions: Any, classes: Any, channels: Any) -> tuple[int, ...]:
    """The resolutions in pixels, ascending, each once; SpaceError for what cannot be an input or classes."""
    if not is_list(resolutions):
        raise SpaceError(f"resolutions is a list of pixels, such as [160, 192], got {resolutions!r}")
    for what, sizes in (("resolutions", resolutions), ("classes", [classes]), ("channels", [channels])):
        for value in sizes:
            if not is_integer(value) or not 1 <= value <= MOST:
                raise SpaceError(f"{what}: give integers of 1 to {MOST:,}, got {value!r}")
    if not resolutions:
        raise SpaceError("resolutions is empty; give at least one, in pixels")
    return tuple(sorted(set(resolutions)))


def check_multiplier(where: str, value: Any) -> float:
    """A finite positive number; SpaceError for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise SpaceError(f"{where}: give a finite positive number, got {value!r}")
    return float(value)


def integers(where: str, value: Any, most: int = MOST) -> tuple[int, ...]:
    """Integers of 1 to `most`, ascending, each once, of a list or a single one."""
    values = value if is_list(value) else [value]
    if not values or not all(is_integer(v) and 1 <= v <= most for v in values):
        raise SpaceError(f"{where} is one or more integers of 1 to {most:,}, got {value!r}")
    return tuple(sorted(set(values)))


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
