"""What a strategy is, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hwnas.searching.feasible import row_keys
from hwnas.searching.objectives import Evaluation, Problem, Values
from hwnas.spaces import Architecture
from hwnas.spaces.base import Genotypes


class Strategy(Protocol):
    """Says what to evaluate next.

    A search calls `begin` once, then `ask` and `tell` in turn. `ask` is a function of the problem, the seed,
    the evaluations told so far, in their order, and the pending architectures. A search that resumes tells a
    new object all stored evaluations, and goes on exactly as if it had not been stopped.

    A strategy may have two attributes. `parameters` is a dict of plain data, the options that it was made
    with: a stored search is not resumed with others. `predicted` is a dict from metric to the predicted
    values of the last batch, in its order (architectures at the end of the batch may have none); these are
    stored, and their rank correlation with the true values is shown.
    """

    def begin(self, problem: Problem, seed: int) -> None:
        """Take a problem, and forget any earlier one.

        Args:
            problem: Space, objectives and constraints. `problem.exact_metrics(archs)` computes the cheap
                metrics, and `problem.violation(metrics)` is 0 where these satisfy the constraints.
            seed: Seed of all random numbers, 0 or more.
        """
        ...

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Sequence[Architecture]:
        """Return the next architectures to evaluate.

        Args:
            n: The most that may be returned.
            pending: Architectures that were asked for and are still being evaluated.

        Returns:
            New architectures, each once, that satisfy the constraints on cheap metrics. Empty if there are
            no more; at least one as long as there is one.
        """
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take note of true evaluations, failed ones included.

        Args:
            evaluations: One for each architecture of a batch, in its order.
        """
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
