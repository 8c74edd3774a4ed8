"""Strategies: what to evaluate next. pymoo is used in here only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hwnas.errors import SearchError, known_names
from hwnas.plugins import identity, is_factory, new_object, option_names
from hwnas.searching.feasible import Candidates
from hwnas.searching.objectives import Constraint, Objective, Problem
from hwnas.searching.strategies.algorithms import ALGORITHMS
from hwnas.searching.strategies.base import History, Strategy
from hwnas.searching.strategies.linas import LINAS
from hwnas.searching.strategies.nsga2 import NSGA2
from hwnas.searching.strategies.random import Random
from hwnas.spaces import Choice, SearchSpace

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": Random,
    "nsga2": NSGA2,
    "linas": LINAS,
}


StrategyLike = str | Strategy | Callable[..., Strategy]


def get_strategy(strategy: StrategyLike, problem: Problem, seed: int = 0, **options: Any) -> Strategy:
    """Return a new strategy that has begun with a problem.

    Args:
        strategy: A name of `STRATEGIES`; or a `Strategy`, which is copied; or a class or function that makes
            one.
        problem: Space, objectives and constraints.
        seed: Seed of all that the strategy draws.
        **options: Arguments of the class or function, or, for an object, further arguments of its `begin`.

    Returns:
        The strategy.

    Raises:
        SearchError: If the name, an option or a value is unknown, or the object is no `Strategy`.
    """
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise SearchError(f"unknown strategy {strategy!r}; {known_names(strategy, STRATEGIES)}")
    plugin = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    begun: Any
    if is_factory(plugin, Strategy):
        known = option_names(plugin)
        if unknown := _unknown(known, options):
            title = repr(strategy) if isinstance(strategy, str) else identity(strategy)[0]
            raise SearchError(
                f"strategy {title} has no option {unknown!r}; it has: {', '.join(known or ()) or 'none'}"
            )
        begun = new_object(plugin, Strategy, "strategy", SearchError, **options)
        begun.begin(problem, seed)
    else:
        begun = new_object(plugin, Strategy, "strategy", SearchError)
        if unknown := _unknown(option_names(begun.begin, 2), options):
            name = type(plugin).__name__
            raise SearchError(
                f"strategy {name} is an object whose begin takes no option {unknown!r}; give it to the "
                f"object itself: {name}({unknown}=…)"
            )
        begun.begin(problem, seed, **options)
    return cast(Strategy, begun)


def _unknown(known: list[str] | None, options: Mapping[str, Any]) -> str:
    """Return the first option that is not among the known ones (None: all are), or an empty string."""
    return next((option for option in options if known is not None and option not in known), "")


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


__all__ = [
    "ALGORITHMS",
    "STRATEGIES",
    "Candidates",
    "History",
    "Strategy",
    "StrategyLike",
    "check_strategy",
    "get_strategy",
]
