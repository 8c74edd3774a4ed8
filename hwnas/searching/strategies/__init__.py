"""Strategies: what to evaluate next. pymoo is used in here only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from hwnas.errors import SearchError, known_names
from hwnas.searching.objectives import Constraint, Objective, Problem
from hwnas.searching.strategies.algorithms import ALGORITHMS
from hwnas.searching.strategies.base import Strategy
from hwnas.searching.strategies.linas import LINAS
from hwnas.searching.strategies.nsga2 import NSGA2
from hwnas.searching.strategies.random import Random
from hwnas.spaces import Choice, SearchSpace

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": Random,
    "nsga2": NSGA2,
    "linas": LINAS,
}


def get_strategy(name: str, problem: Problem, seed: int = 0, **options: Any) -> Strategy:
    """The strategy of this name for a problem; `options` are those of its class.

    SearchError for a name, an option or a value that is none.
    """
    if name not in STRATEGIES:
        raise SearchError(f"unknown strategy {name!r}; {known_names(name, STRATEGIES)}")
    known = list(signature(STRATEGIES[name]).parameters)[2:]  # after the problem and the seed
    unknown = [option for option in options if option not in known]
    if unknown:
        raise SearchError(f"strategy {name!r} has no option {unknown[0]!r}; it has: {', '.join(known)}")
    return STRATEGIES[name](problem, seed, **options)


def check_strategy(
    name: str,
    objectives: Sequence[str] = ("objective",),
    constraints: Sequence[Constraint] = (),
    **options: Any,
) -> None:
    """SearchError for an unknown strategy or options that its class does not take; needs no problem.

    Nor do `objectives`, by name, and `constraints` need what evaluates them.
    """

    def zeros(archs: Sequence[Any]) -> list[float]:
        return [0.0] * len(archs)

    space = SearchSpace("none", [Choice("none", (0, 1))])
    bounds = [replace(c, evaluate=None if c.name in objectives else zeros) for c in constraints]
    wanted = tuple(Objective(objective, "max", zeros, expensive=True) for objective in objectives)
    get_strategy(name, Problem(space, wanted, tuple(bounds)), **options)


__all__ = ["ALGORITHMS", "STRATEGIES", "Strategy", "check_strategy", "get_strategy"]
