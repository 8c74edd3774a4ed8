"""Random search: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.searching.feasible import Candidates
from hwnas.searching.objectives import Evaluation, Problem, whole
from hwnas.searching.strategies.base import History
from hwnas.spaces import Architecture, Architectures


class Random:
    """Feasible architectures at random, each once, in batches of `batch`."""

    def __init__(self, batch: int = 10) -> None:
        self.batch = whole("batch", batch, 1)
        self.parameters = {"batch": self.batch}

    def begin(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = whole("seed", seed, 0)
        self._history = History(problem)
        self._candidates = Candidates(problem)

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Architectures:
        rng = np.random.default_rng([self.seed, len(self._history) + len(pending)])
        seen = self._history.seen(pending)
        return Architectures(self.problem.space, self._candidates.draw(min(n, self.batch), rng, seen))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)
