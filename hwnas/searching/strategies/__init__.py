"""Strategies: what to evaluate next. pymoo is used in here only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwnas.errors import SearchError
from hwnas.searching.objectives import Problem
from hwnas.searching.strategies.base import Strategy
from hwnas.searching.strategies.linas import LINAS
from hwnas.searching.strategies.nsga2 import NSGA2
from hwnas.searching.strategies.random import Random

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": Random,
    "nsga2": NSGA2,
    "linas": LINAS,
}


def get_strategy(name: str, problem: Problem, seed: int = 0, **options: Any) -> Strategy:
    """The strategy of this name for a problem; `options` are those of its class. SearchError if unknown."""
    if name not in STRATEGIES:
        raise SearchError(f"unknown strategy {name!r}; known: {', '.join(STRATEGIES)}")
    try:
        return STRATEGIES[name](problem, seed, **options)
    except TypeError as error:
        raise SearchError(f"strategy {name!r}: {error}") from None


__all__ = ["STRATEGIES", "Strategy", "get_strategy"]
