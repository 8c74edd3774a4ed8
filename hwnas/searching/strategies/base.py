"""What a strategy is, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hwnas.searching.feasible import row_keys
from hwnas.searching.objectives import Evaluation, Problem, Values
from hwnas.spaces import Architecture, Architectures
from hwnas.spaces.base import Genotypes


class Strategy(Protocol):
    """Says what to evaluate next.

    `ask` is a function of the seed, of what was told, in its order, and of what is pending, and of nothing
    else: a strategy that is told the stored evaluations of a search goes on exactly as the one that asked for
    them. One that predicts metrics leaves what it predicted of the batch it asked for last, in its order, in
    an attribute `predicted`, a dict from metric to values (architectures drawn at random at the batch's end
    have none); it is stored, to judge the predictor by.
    """

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Architectures:
        """The next batch, at most n, none told before or that a cheap constraint forbids; empty: no more.

        `pending` were asked for and are still being evaluated: they are not asked for again.
        """
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

    def seen(self, pending: Sequence[Architecture] = ()) -> set[bytes]:
        """The keys (`row_keys`) of all told, failed ones included, and of what is pending."""
        archs = [*(e.architecture for e in self._told), *pending]
        return set(row_keys(self.problem.space.genotypes(archs)))

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
