"""NSGA-II on true evaluations. https://doi.org/10.1109/4235.996017"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.searching.feasible import Candidates, new_rows, row_keys
from hwnas.searching.objectives import Evaluation, Problem, whole
from hwnas.searching.strategies.base import History
from hwnas.searching.strategies.evolution import best_first, losses, offspring
from hwnas.spaces import Architecture, Architectures


class NSGA2:
    """Generations of `population` children; the parents are the best of everything told."""

    def __init__(self, population: int = 20) -> None:
        self.population = whole("population", population, 1)
        self.parameters = {"population": self.population}

    def begin(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = whole("seed", seed, 0)
        self._history = History(problem)
        self._candidates = Candidates(problem)

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Architectures:
        n = min(n, self.population)
        space = self.problem.space
        rng = np.random.default_rng([self.seed, len(self._history) + len(pending)])
        seen = self._history.seen(pending)
        genotypes, metrics = self._history.genotypes, self._history.metrics
        children = space.genotypes([])
        if len(genotypes) >= 2 and len(self._history) >= self.population:
            violation = self.problem.violation(metrics)
            order = best_first(losses(self.problem.objectives, metrics), violation, self.population)
            children = new_rows(offspring(space, genotypes[order], 4 * n, rng), seen)
            children = children[self._candidates.violation(children) == 0][:n]
        seen.update(row_keys(children))
        filled = self._candidates.draw(n - len(children), rng, seen) if len(children) < n else children[:0]
        return Architectures(space, np.concatenate([children, filled]))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)
