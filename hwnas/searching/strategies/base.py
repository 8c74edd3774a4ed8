"""What a strategy is, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hwnas.searching.objectives import Evaluation, Problem, Values
from hwnas.spaces import Architectures
from hwnas.spaces.base import Genotypes


class Strategy(Protocol):
    """Says what to evaluate next.

    `ask` is a function of the seed and of what was told, in its order, and of nothing else: a strategy that
    is told the stored evaluations of a search goes on exactly as the one that asked for them.
    """

    def ask(self, n: int) -> Architectures:
        """The next batch, at most n, none told before or that a cheap constraint forbids; empty: no more."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take note of what was truly evaluated, failures included."""
        ...


class History:
    """What a strategy was told, as arrays over the n successful evaluations."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._told: list[Evaluation] = []

    def add(self, evaluations: Sequence[Evaluation]) -> None:
        self._told += evaluations

    def __len__(self) -> int:
        """How many were told, failed ones included."""
        return len(self._told)

    @property
    def seen(self) -> Genotypes:
        """Genotypes of all told, failed ones included."""
        return self.problem.space.genotypes([e.architecture for e in self._told])

    @property
    def genotypes(self) -> Genotypes:
        return self.problem.space.genotypes([e.architecture for e in self._told if e.status == "ok"])

    @property
    def metrics(self) -> dict[str, Values]:
        """Each metric of the problem, (n,)."""
        names = dict.fromkeys([*(o.name for o in self.problem.objectives), *self.problem.exact])
        return {
            name: np.array([e.metrics[name] for e in self._told if e.status == "ok"], dtype=float)
            for name in names
        }
