"""Small problems that the tests of searching share."""

from __future__ import annotations

import numpy as np

from hwnas import Architecture
from hwnas.testing.problems import accuracy, at_most, cost, objectives, toy_space

__all__ = ["CountingAccuracy", "accuracy", "at_most", "cost", "objectives", "toy_space"]


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
