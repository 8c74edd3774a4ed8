"""Small problems that the tests of searching share."""

from __future__ import annotations

import numpy as np

from hwnas import Architecture, Choice, Constraint, Objective, SearchSpace


def toy_space(layers: int = 5) -> SearchSpace:
    """Depth and a width for each of `layers` layers, active while the depth reaches it."""
    depths = tuple(range(1, layers + 1))
    widths = [
        Choice(
            f"width{i}", (1, 2, 3), requires=(("depth", tuple(d for d in depths if d > i)),), group="width"
        )
        for i in range(layers)
    ]
    return SearchSpace("toy", [Choice("depth", depths), *widths])


def cost(archs: object) -> np.ndarray:
    return np.array([float(sum(_widths(arch))) for arch in archs])


def accuracy(archs: object) -> np.ndarray:
    """Saturates with the cost; later widths are worth less."""
    kept = [np.prod([1 - 0.1 * w / (i + 1) for i, w in enumerate(_widths(arch))]) for arch in archs]
    return 90 - 40 * np.array(kept)


def _widths(arch: Architecture) -> list[int]:
    return [value for name, value in arch.values.items() if name != "depth"]


class CountingAccuracy:
    """The accuracy above; counts calls, fails for some, and dies (as a kill does) at one of them."""

    def __init__(self, die_at: int | None = None, fails: tuple[str, ...] = ()) -> None:
        self.asked: list[Architecture] = []
        self.die_at = die_at
        self.fails = fails

    def __call__(self, archs: object) -> np.ndarray:
        (arch,) = archs
        if len(self.asked) == self.die_at:
            raise KeyboardInterrupt
        self.asked.append(arch)
        if arch.id[0] in self.fails:
            raise RuntimeError("out of memory")
        return accuracy([arch])


def objectives(evaluate: object = accuracy, source: str = "") -> list[Objective]:
    return [
        Objective("accuracy", "max", evaluate, expensive=True, source=source),
        Objective("cost", "min", cost),
    ]


def at_most(bound: float) -> list[Constraint]:
    return [Constraint("cost", upper=bound)]
