"""Small problems that searches and predictors are checked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.searching.objectives import Constraint, Objective
from hwnas.spaces import Architecture, Choice, SearchSpace


def toy_space(layers: int = 5) -> SearchSpace:
    """Return a space of a depth and the width of each layer, active while the depth reaches it.

    Args:
        layers: Number of layers.
    """
    depths = tuple(range(1, layers + 1))
    widths = [
        Choice(
            f"width{i}", (1, 2, 3), requires=(("depth", tuple(d for d in depths if d > i)),), group="width"
        )
        for i in range(layers)
    ]
    return SearchSpace("toy", [Choice("depth", depths), *widths])


def cost(archs: Any) -> NDArray[np.float64]:
    """Return the sum of the widths, (n,)."""
    return np.array([float(sum(_widths(arch))) for arch in archs])


def accuracy(archs: Any) -> NDArray[np.float64]:
    """Return a value (n,) that saturates with the cost; later widths add less."""
    kept = [np.prod([1 - 0.1 * w / (i + 1) for i, w in enumerate(_widths(arch))]) for arch in archs]
    return np.asarray(90 - 40 * np.array(kept))


def _widths(arch: Architecture) -> list[int]:
    return [value for name, value in arch.values.items() if name != "depth"]


def objectives(evaluate: Callable[[Any], Any] = accuracy, source: str = "") -> list[Objective]:
    """Return an expensive accuracy, to be maximised, and a cheap cost, to be minimised."""
    return [
        Objective("accuracy", "max", evaluate, expensive=True, source=source),
        Objective("cost", "min", cost),
    ]


def at_most(bound: float) -> list[Constraint]:
    """Return an upper bound on the cost."""
    return [Constraint("cost", upper=bound)]
