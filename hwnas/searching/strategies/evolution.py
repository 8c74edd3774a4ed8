"""NSGA-II on arrays: one row an architecture, no object an individual.

Source: Deb et al. 2002, https://doi.org/10.1109/4235.996017; constraints by feasibility first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from hwnas.searching.feasible import unseen_rows
from hwnas.searching.objectives import Objective, Values
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotypes

Score = Callable[[Genotypes], tuple[Values, Values]]  # (n, g) → losses (n, m), violation (n,)


def losses(objectives: Sequence[Objective], metrics: Mapping[str, Values]) -> Values:
    """(n, m) values to minimise, a column an objective: the one place where signs flip."""
    return np.stack([(-1.0 if o.direction == "max" else 1.0) * metrics[o.name] for o in objectives], axis=1)


def best_first(losses: Values, violation: Values, n: int) -> NDArray[np.int64]:
    """The positions of the best n: feasible ones by front, then crowding; the others by violation."""
    feasible = np.flatnonzero(violation == 0)
    chosen = [np.zeros(0, dtype=np.int64)]
    if len(feasible):
        for front in NonDominatedSorting().do(losses[feasible], n_stop_if_ranked=n):
            crowding = calc_crowding_distance(losses[feasible][front])
            chosen.append(feasible[front[np.argsort(-crowding, kind="stable")]])
    infeasible = np.flatnonzero(violation > 0)
    chosen.append(infeasible[np.argsort(violation[infeasible], kind="stable")])
    return np.concatenate(chosen)[:n]


def offspring(space: SearchSpace, parents: Genotypes, n: int, rng: np.random.Generator) -> Genotypes:
    """At most n canonical, valid children of `parents` (best first) by tournament, crossover and mutation."""
    pairs = rng.integers(0, len(parents), (2, n, 2)).min(axis=2)
    children = crossed(space, parents[pairs[0]], parents[pairs[1]], rng)
    return children[space.valid(children)]


def crossed(space: SearchSpace, one: Genotypes, other: Genotypes, rng: np.random.Generator) -> Genotypes:
    """A canonical child of each of n pairs of parents, (n, g) each; it may be invalid.

    A child takes each choice from one of two parents, or from the one where it is active; a choice that was
    active in neither is drawn. Then each choice changes with probability 1 / g, at least one of them.
    """
    n, g = one.shape
    first = rng.random((n, g)) < 0.5
    active = np.split(space.active(np.concatenate([one, other])), 2)
    children = np.where(np.where(active[0] == active[1], first, active[0]), one, other)
    mutated = rng.random((n, g)) < 1.0 / g
    mutated[np.arange(n), rng.integers(0, g, n)] = True
    shares, drawn = rng.random((n, g)), rng.random((n, g))
    rows, columns = np.nonzero(mutated)
    sizes = space.cardinalities[columns]
    shift = 1 + (shares[rows, columns] * (sizes - 1)).astype(np.int64)
    children[rows, columns] = (children[rows, columns] + shift) % sizes
    rows, columns = np.nonzero(~(active[0] | active[1]))
    children[rows, columns] = (drawn[rows, columns] * space.cardinalities[columns]).astype(np.int64)
    return space.canonical(children)


def evolve(
    space: SearchSpace,
    score: Score,
    start: Genotypes,
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> tuple[Genotypes, Values, Values]:
    """Every architecture that NSGA-II came across, each once, with its losses (n, m) and violation (n,)."""
    rows, keys = unseen_rows(start, ())
    values, violation = score(rows)
    found = [(rows, values, violation)]
    seen = set(keys)
    alive = best_first(values, violation, population)
    rows, values, violation = rows[alive], values[alive], violation[alive]
    for _ in range(generations):
        children, keys = unseen_rows(offspring(space, rows, population, rng), seen)
        if len(children) == 0:
            continue
        seen.update(keys)
        found.append((children, *score(children)))
        rows, values, violation = (
            np.concatenate(pair) for pair in zip((rows, values, violation), found[-1], strict=True)
        )
        alive = best_first(values, violation, population)
        rows, values, violation = rows[alive], values[alive], violation[alive]
    rows, values, violation = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, values, violation
