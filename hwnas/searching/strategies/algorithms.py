"""The evolutionary algorithms of the inner search: NSGA-II on arrays, and those of pymoo.

pymoo selects who breeds and who survives; children, canonical and unseen, are made by `evolution.crossed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import comb, inf
from typing import Any

import numpy as np
from pymoo.algorithms.moo.ctaea import CTAEA
from pymoo.algorithms.moo.moead import ParallelMOEAD
from pymoo.algorithms.moo.unsga3 import UNSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.util.ref_dirs import get_reference_directions

from hwnas.errors import MissingExtraError, SearchError, known_names
from hwnas.searching.feasible import row_keys, unseen_rows
from hwnas.searching.objectives import Problem, Values
from hwnas.searching.strategies.evolution import Score, best_first, crossed, evolve
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotypes

NEIGHBOURS = 20  # directions that MOEA/D mates and replaces among, as in its paper


# How an algorithm is run: what `evolution.evolve` takes and gives.
Evolve = Callable[
    [SearchSpace, Score, Genotypes, int, int, np.random.Generator], tuple[Genotypes, Values, Values]
]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm and the problems that it is for."""

    evolve: Evolve
    fewest: int = 1  # objectives
    most: float = inf
    constraints: bool = True  # whether it knows of any
    package: str = ""  # that it needs, from the extra of its own name

    def misfit(self, problem: Problem) -> str:
        """Why it is not for a problem; empty if it is."""
        n = len(problem.objectives)
        if not self.fewest <= n <= self.most:
            wanted = f"{self.fewest} or more objectives" if n < self.fewest else "one objective"
            return f"is for {wanted}, and this search has {n}"
        if problem.constraints and not self.constraints:
            return (
                f"knows no constraints, and this search has some: {'; '.join(map(str, problem.constraints))}"
            )
        return ""


def get_algorithm(name: str, problem: Problem) -> Evolve:
    """The algorithm of this name.

    SearchError, with those that fit, if there is none or it is not for the problem; MissingExtraError if it
    needs a package that is not installed.
    """
    if name not in ALGORITHMS:
        raise SearchError(f"unknown algorithm {name!r}; {known_names(name, ALGORITHMS)}")
    misfit = ALGORITHMS[name].misfit(problem)
    if misfit:
        fitting = [other for other, algorithm in ALGORITHMS.items() if not algorithm.misfit(problem)]
        raise SearchError(f"algorithm {name!r} {misfit}; those that fit: {', '.join(fitting)}")
    package = ALGORITHMS[name].package
    if package and find_spec(package) is None:
        raise MissingExtraError(package, name)
    return ALGORITHMS[name].evolve


# ---- pymoo ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pymoo:
    """An algorithm of pymoo, run on losses that are scaled to the range of the start.

    `make` takes reference directions (d, m), d at most the population, and the population's size.
    """

    make: Callable[[Values, int], Any]
    constraints: bool = True

    def __call__(
        self,
        space: SearchSpace,
        score: Score,
        start: Genotypes,
        population: int,
        generations: int,
        rng: np.random.Generator,
    ) -> tuple[Genotypes, Values, Values]:
        """As `evolution.evolve`."""
        losses, violation = score(start)
        low, width = losses.min(axis=0), np.ptp(losses, axis=0)
        width[width == 0] = 1.0

        def individuals(rows: Genotypes, losses: Values, violation: Values) -> Any:
            missed = violation[:, None] if self.constraints else np.zeros((len(rows), 0))
            return Population.new("X", rows, "F", (losses - low) / width, "G", missed)

        algorithm = self.make(directions(losses.shape[1], population), population)
        problem = PymooProblem(
            n_var=len(space.choices), n_obj=losses.shape[1], n_ieq_constr=int(self.constraints)
        )
        algorithm.setup(problem, seed=rng, termination=NoTermination())
        algorithm.mating = _Mating(space, algorithm.mating.selection, set(row_keys(start)))
        # Some fill a fixed number of places: where there are fewer to begin with, the best are there twice.
        alive = np.resize(best_first(losses, violation, algorithm.pop_size), algorithm.pop_size)
        algorithm.tell(infills=individuals(start[alive], losses[alive], violation[alive]))
        found, scored = [start], [(losses, violation)]
        for _ in range(generations):
            asked = algorithm.ask()
            if asked is None or len(asked) == 0:
                break
            found.append(asked.get("X"))
            scored.append(score(found[-1]))
            algorithm.tell(infills=individuals(found[-1], *scored[-1]))
        every = np.concatenate(found)
        first = np.sort(np.unique(every, axis=0, return_index=True)[1])
        losses, violation = map(np.concatenate, zip(*scored, strict=True))
        return every[first], losses[first], violation[first]


class _Mating:
    """What pymoo asks for children: its own selection, our crossover and mutation, each child only once."""

    n_parents = 2

    def __init__(self, space: SearchSpace, selection: Any, seen: set[bytes]) -> None:
        self.space = space
        self.selection = selection
        self.seen = seen
        self.crossover = self  # where MOEA/D looks for n_parents

    def do(
        self,
        problem: Any,
        pop: Any,
        n_offsprings: int,
        parents: Any = None,
        random_state: Any = None,
        **kwargs: Any,
    ) -> Any:
        """At most so many new children, or, where the pairs of parents are given, one of each, new or not."""
        given = parents is not None
        if not given:
            parents = self.selection.do(
                problem, pop, n_offsprings, self.n_parents, random_state=random_state, **kwargs
            )
        rows = np.array([[parent.X for parent in pair] for pair in parents])
        children = crossed(self.space, rows[:, 0], rows[:, 1], random_state)
        valid = self.space.valid(children)
        if given:
            return Population.new("X", np.where(valid[:, None], children, rows[:, 0]))
        children, keys = unseen_rows(children[valid], self.seen)
        self.seen.update(keys)
        return Population.new("X", children)


def directions(objectives: int, population: int) -> Values:
    """The most of Das and Dennis's reference directions, (d, m), that a population can hold, m at least."""
    parts = 1
    while objectives > 1 and comb(parts + objectives, objectives - 1) <= population:
        parts += 1
    return np.asarray(get_reference_directions("das-dennis", objectives, n_partitions=parts))


def _niche_tournament(pop: Any, pairs: Any, random_state: Any, **_: Any) -> Any:
    """U-NSGA-III's: the less infeasible; of one niche the better front, then the nearer; otherwise any.

    pymoo's own draws from an unseeded generator where two violations are equal.
    """
    violation, niche, rank, distance = (
        pop.get(name).astype(float).reshape(len(pop)) for name in ("CV", "niche", "rank", "dist_to_niche")
    )
    one, other = pairs.T
    difference = violation[one] - violation[other]
    for values in (rank, distance):
        undecided = (difference == 0) & (niche[one] == niche[other])
        difference = np.where(undecided, values[one] - values[other], difference)
    any_of_two = pairs[np.arange(len(pairs)), random_state.integers(0, 2, len(pairs))]
    return np.where(difference == 0, any_of_two, np.where(difference < 0, one, other))


def _ga(directions: Values, population: int) -> Any:
    return GA(pop_size=population)


def _unsga3(directions: Values, population: int) -> Any:
    return UNSGA3(directions, TournamentSelection(_niche_tournament), pop_size=population)


def _agemoea(directions: Values, population: int) -> Any:
    from pymoo.algorithms.moo.age import AGEMOEA  # compiles with numba, for seconds

    return AGEMOEA(pop_size=population)


def _ctaea(directions: Values, population: int) -> Any:
    return CTAEA(directions)


def _moead(directions: Values, population: int) -> Any:
    return ParallelMOEAD(directions, n_neighbors=NEIGHBOURS)


ALGORITHMS: dict[str, Algorithm] = {
    # Deb et al. 2002, https://doi.org/10.1109/4235.996017
    "nsga2": Algorithm(evolve),
    # Seada and Deb 2016, https://doi.org/10.1109/TEVC.2015.2459718
    "unsga3": Algorithm(Pymoo(_unsga3), fewest=2),
    # Panichella 2019, https://doi.org/10.1145/3321707.3321839
    "agemoea": Algorithm(Pymoo(_agemoea), fewest=2, package="numba"),
    # Li et al. 2019, https://doi.org/10.1109/TEVC.2018.2855411
    "ctaea": Algorithm(Pymoo(_ctaea), fewest=2),
    # Zhang and Li 2007, https://doi.org/10.1109/TEVC.2007.892759
    "moead": Algorithm(Pymoo(_moead, constraints=False), fewest=2, constraints=False),
    # a genetic algorithm for one objective
    "ga": Algorithm(Pymoo(_ga), most=1),
}
