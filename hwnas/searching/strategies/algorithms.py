"""Evolutionary algorithms of the inner search, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwnas.errors import SearchError
from hwnas.searching.objectives import Problem, Values
from hwnas.searching.strategies.evolution import Score, evolve
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotypes


class Evolve(Protocol):
    """How an algorithm is run."""

    def __call__(
        self,
        space: SearchSpace,
        score: Score,
        start: Genotypes,
        population: int,
        generations: int,
        rng: np.random.Generator,
    ) -> tuple[Genotypes, Values, Values]:
        """Every architecture that it came across, each once, with its losses (n, m) and violation (n,)."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """An algorithm and the problems that it is for."""

    evolve: Evolve
    fewest: int = 1  # objectives
    most: float = float("inf")
    constraints: bool = True  # whether it knows of any

    def misfit(self, problem: Problem) -> str:
        """Why it is not for a problem; empty if it is."""
        n = len(problem.objectives)
        if not self.fewest <= n <= self.most:
            wanted = f"{self.fewest} or more objectives" if n < self.fewest else "one objective"
            return f"is for {wanted}, and this search has {n}"
        if problem.constraints and not self.constraints:
            return f"knows no constraints, and this search has {len(problem.constraints)}"
        return ""


ALGORITHMS: dict[str, Algorithm] = {
    "nsga2": Algorithm(evolve),
}


def get_algorithm(name: str, problem: Problem) -> Evolve:
    """The algorithm of this name; SearchError, with those that fit, if it is none or not for the problem."""
    if name not in ALGORITHMS:
        raise SearchError(f"unknown algorithm {name!r}; known: {', '.join(ALGORITHMS)}")
    misfit = ALGORITHMS[name].misfit(problem)
    if misfit:
        fitting = [other for other, algorithm in ALGORITHMS.items() if not algorithm.misfit(problem)]
        raise SearchError(f"algorithm {name!r} {misfit}; those that fit: {', '.join(fitting)}")
    return ALGORITHMS[name].evolve
