"""Feasible architectures: drawing new ones, and what can be reached at all.

Only cheap metrics count here: they are exact, so what they forbid is never asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from itertools import chain

import numpy as np

from hwnas.errors import InfeasibleError, SpaceError
from hwnas.searching.objectives import Evaluate, Problem, Values, checked_values
from hwnas.spaces import Architecture, Architectures, SearchSpace
from hwnas.spaces.base import Genotypes, Rng
from hwnas.spaces.sampling import ENUMERATION_LIMIT

SMALL = 2**13  # a space of up to so many combinations is always enumerated, a larger one only if need be
MAX_CHECKED = 2**22  # architectures whose constraints are evaluated for `Candidates.hidden`
BLOCK_SIZE = 2**14  # architectures that are checked at once
DESCENTS = 16  # descents that look for the first feasible architectures of `Candidates.hidden`


def row_keys(genotypes: Genotypes) -> list[bytes]:
    """One hashable key a row: equal if and only if the rows are equal."""
    if len(genotypes) == 0:
        return []
    packed = np.ascontiguousarray(genotypes, dtype=np.int16 if genotypes.max() < 2**15 else np.int64)
    return list(packed.view(f"V{packed.itemsize * packed.shape[1]}").ravel().tolist())


def new_rows(genotypes: Genotypes, seen: Collection[bytes]) -> Genotypes:
    """The rows that are not in `seen`, each once, in order."""
    return unseen_rows(genotypes, seen)[0]


def unseen_rows(genotypes: Genotypes, seen: Collection[bytes]) -> tuple[Genotypes, list[bytes]]:
    """`new_rows` and their keys."""
    first: dict[bytes, int] = {}
    for index, key in enumerate(row_keys(genotypes)):
        if key not in seen:
            first.setdefault(key, index)
    return genotypes[list(first.values())], list(first)


def neighbours(space: SearchSpace, genotype: Genotypes) -> Genotypes:
    """All architectures that differ from one, (1, g), in the value of one choice, (n, g)."""
    columns = np.repeat(np.arange(len(space.choices)), space.cardinalities)
    near = np.repeat(genotype, len(columns), axis=0)
    near[np.arange(len(columns)), columns] = np.concatenate([np.arange(c) for c in space.cardinalities])
    near = space.canonical(near)
    return new_rows(near[space.valid(near)], row_keys(genotype))


def second_neighbours(space: SearchSpace, genotype: Genotypes) -> Iterator[Genotypes]:
    """Yield all architectures that differ from one, (1, g), in two choices, in blocks (n, g)."""
    columns = np.repeat(np.arange(len(space.choices)), space.cardinalities)
    values = np.concatenate([np.arange(c) for c in space.cardinalities])
    other = values != genotype[0, columns]
    columns, values = columns[other], values[other]
    first, second = np.triu_indices(len(columns), 1)
    apart = columns[first] != columns[second]
    first, second = first[apart], second[apart]
    for begin in range(0, len(first), BLOCK_SIZE):
        one, two = first[begin : begin + BLOCK_SIZE], second[begin : begin + BLOCK_SIZE]
        near = np.repeat(genotype, len(one), axis=0)
        rows = np.arange(len(one))
        near[rows, columns[one]] = values[one]
        near[rows, columns[two]] = values[two]
        near = space.canonical(near)
        yield near[space.valid(near)]


def descend(space: SearchSpace, loss: Callable[[Genotypes], Values], start: Genotypes) -> Genotypes:
    """From the best of `start` (n, g) to a local minimum over single choices, (1, g)."""
    values = loss(start)
    best, value = start[[int(np.argmin(values))]], values.min()
    while True:
        near = neighbours(space, best)
        values = loss(near) if len(near) else np.array([np.inf])
        if values.min() >= value:
            return best
        best, value = near[[int(np.argmin(values))]], values.min()


def extreme(
    space: SearchSpace, evaluate: Evaluate, direction: str = "min", rng: Rng = 0, name: str = "the metric"
) -> tuple[Architecture, float]:
    """The architecture with the smallest (or largest) value of a cheap metric, and the value.

    Exact in a small space; in a larger one the best of samples, improved choice by choice.
    """
    sign = 1.0 if direction == "min" else -1.0

    def loss(genotypes: Genotypes) -> Values:
        return sign * checked_values(name, evaluate, Architectures(space, genotypes))

    every = enumerated(space, SMALL)
    best = every[[int(np.argmin(loss(every)))]] if every is not None else None
    if best is None:
        best = descend(space, loss, space.sample(1000, rng).genotypes)
    return Architectures(space, best)[0], sign * float(loss(best)[0])


def enumerated(space: SearchSpace, limit: int) -> Genotypes | None:
    """Every architecture, (n, g), or None if the space has more than `limit` combinations."""
    try:
        return space.enumerate(limit).genotypes
    except SpaceError:
        return None


class Candidates:
    """New feasible architectures of a problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def every(self) -> Genotypes | None:
        """All feasible architectures of a small space, (n, g); None for a larger space."""
        return self._enumerated(SMALL)

    @cached_property
    def _every_of_larger(self) -> Genotypes | None:
        return self._enumerated(ENUMERATION_LIMIT)

    def _enumerated(self, limit: int) -> Genotypes | None:
        """Return all feasible architectures in order, (n, g), or None above `limit` combinations."""
        space = self.problem.space
        if space.combinations > limit:
            return None
        parts = []
        for block in space.combination_blocks():
            genotypes = space.canonical(block)
            genotypes = genotypes[space.valid(genotypes)]
            parts.append(genotypes[self.violation(genotypes) == 0])
        return np.asarray(np.unique(np.concatenate(parts), axis=0))

    @cached_property
    def hidden(self) -> Genotypes:
        """Feasible architectures, (n, g), that are hard to find; all of them up to MAX_CHECKED combinations.

        In a larger space: those that a few descents and then changes of one or two choices at a time lead to.
        They do not depend on the seed of the search.
        """
        every = self._enumerated(MAX_CHECKED)
        if every is not None:
            return every
        space = self.problem.space
        found = new_rows(self._descents(DESCENTS, np.random.default_rng(0)), ())
        seen, checked = set(row_keys(found)), 0
        frontier = deque(found)
        parts = [found]
        while frontier and checked < MAX_CHECKED:
            genotype = frontier.popleft()[None]
            for block in chain([neighbours(space, genotype)], second_neighbours(space, genotype)):
                checked += len(block)
                near, keys = unseen_rows(block[self.violation(block) == 0], seen)
                seen.update(keys)
                frontier.extend(near)
                parts.append(near)
        return np.concatenate(parts)

    def _descents(self, n: int, rng: np.random.Generator) -> Genotypes:
        """Return the feasible ones, (≤ n, g), of the ends of n descents of the violation."""
        space = self.problem.space
        starts = space.sample(n, rng).genotypes
        ends = np.concatenate([descend(space, self.violation, start[None]) for start in starts])
        return np.asarray(ends[self.violation(ends) == 0])

    def violation(self, genotypes: Genotypes) -> Values:
        """Violation of the cheap constraints by canonical genotypes, (n,)."""
        exact = self.problem.exact
        bounded = {c.name: exact[c.name] for c in self.problem.constraints if c.name in exact}
        archs = Architectures(self.problem.space, genotypes)
        metrics = {name: checked_values(name, evaluate, archs) for name, evaluate in bounded.items()}
        return self.problem.violation(metrics) if metrics else np.zeros(len(genotypes))

    def draw(self, n: int, rng: np.random.Generator, seen: Collection[bytes]) -> Genotypes:
        """n architectures at random, feasible, different and none of `seen`; fewer if there are no more.

        In a space of more than MAX_CHECKED combinations some may be missed, see `hidden`.
        """
        space = self.problem.space
        if self.every is None:
            found = space.genotypes([])
            for _ in range(10):
                drawn = space.sample(max(256, 2 * n), rng).genotypes
                found = self._extend(found, drawn, seen)
                if len(found) >= n:
                    return found[:n]
            if self._every_of_larger is None:
                found = self._grow(found, n, rng, seen)
                if len(found) < n:
                    found = self._extend(found, rng.permutation(self.hidden), seen)
                return found[:n]
        every = self.every if self.every is not None else self._every_of_larger
        assert every is not None
        left = new_rows(every, seen)
        return left[rng.permutation(len(left))[:n]]

    def _extend(self, found: Genotypes, drawn: Genotypes, seen: Collection[bytes]) -> Genotypes:
        drawn = new_rows(np.concatenate([found, drawn]), seen)[len(found) :]
        return np.concatenate([found, drawn[self.violation(drawn) == 0]])

    def _grow(self, found: Genotypes, n: int, rng: np.random.Generator, seen: Collection[bytes]) -> Genotypes:
        """Where the feasible part is rare: descend into it and walk on from what was found."""
        space = self.problem.space
        frontier = np.concatenate([found, self._descents(8, rng)])
        found = self._extend(found, frontier, seen)
        visited = set(row_keys(frontier))
        while len(found) < n and len(frontier):
            picked = frontier[rng.permutation(len(frontier))[: max(1, n // 8)]]
            near = new_rows(np.concatenate([neighbours(space, row[None]) for row in picked]), visited)
            near = near[self.violation(near) == 0]
            visited.update(row_keys(near))
            found = self._extend(found, near, seen)
            frontier = np.concatenate([new_rows(frontier, row_keys(picked)), near])
        return found[rng.permutation(len(found))[:n]]


def check_feasible(problem: Problem, rng: Rng = 0) -> None:
    """InfeasibleError, with the reachable values, if nothing satisfies the bounds on cheap metrics."""
    candidates = Candidates(problem)
    bounded = [c for c in problem.constraints if c.name in problem.exact]
    if not bounded:
        return
    if candidates.every is not None:
        if len(candidates.every):
            return
    else:
        drawn = problem.space.sample(1000, rng).genotypes
        violation = candidates.violation(drawn)
        if violation.min() == 0:
            return
        for start in drawn[np.argsort(violation, kind="stable")[:8]]:
            if candidates.violation(descend(problem.space, candidates.violation, start[None]))[0] == 0:
                return
        if len(candidates.hidden):
            return
    raise InfeasibleError(_unreachable(problem, rng))


def _unreachable(problem: Problem, rng: Rng) -> str:
    reasons: list[str] = []
    alone: list[str] = []
    for constraint in problem.constraints:
        evaluate = problem.exact.get(constraint.name)
        if evaluate is None:
            continue
        for bound, direction, word in [
            (constraint.upper, "min", "smallest"),
            (constraint.lower, "max", "largest"),
        ]:
            if bound is None:
                continue
            _, value = extreme(problem.space, evaluate, direction, rng, constraint.name)
            text = f"the {word} reachable {constraint.name} is {value:.10g}"
            (alone if (value <= bound) == (direction == "min") or value == bound else reasons).append(text)
    wanted = ", ".join(str(c) for c in problem.constraints if c.name in problem.exact)
    if reasons:
        return f"no architecture satisfies {wanted}: {', '.join(reasons)}; loosen the bound"
    return f"no architecture satisfies {wanted} together, though {', '.join(alone)}; loosen one of the bounds"
