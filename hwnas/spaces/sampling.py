"""Random architectures of a space with a `valid` hook.

Three methods, in this order. All of them draw active choices uniformly and independently, given that the
architecture is valid; the third one does so approximately.

1. Rejection sampling, up to a fixed number of draws. It suffices where about 1 in 200 draws is valid.
2. Enumeration of all combinations, where there are at most `ENUMERATION_LIMIT`.
3. Metropolis walks (https://doi.org/10.1063/1.1699114) from valid architectures that a longer search found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError

if TYPE_CHECKING:
    from hwnas.spaces.base import Genotypes, SearchSpace

log = logging.getLogger("hwnas")

Allowed = Sequence[NDArray[np.int64]]  # for each choice the value indices that may be drawn

ENUMERATION_LIMIT = 2**20  # combinations
ROUND_SIZE = 2**13  # draws that are checked at once
REJECTION_DRAWS = 2**13  # rejection sampling ends after this many draws
REJECTION_DRAWS_EACH = 256  # and this many more for each valid one among them
SEARCH_DRAWS = 2**18  # draws that look for starting points of the walks
FEW = 64  # with fewer uniform starting points, regular ones are added
POOL_SIZE = 512  # walks that run when the sampler is made
POOL_STEPS = 32  # steps of these walks, times the number of choices
CALL_STEPS = 1  # steps from the pool to a sampled architecture, times the number of choices


def draw(
    cardinalities: NDArray[np.int64], n: int, generator: np.random.Generator, allowed: Allowed | None = None
) -> Genotypes:
    """Draw n genotypes (n, g) uniformly. They are neither canonical nor checked by the valid hook."""
    if allowed is None:
        return np.asarray(generator.integers(0, cardinalities, (n, len(cardinalities))))
    drawn = generator.integers(0, list(map(len, allowed)), (n, len(allowed)))
    return np.stack([indices[row] for indices, row in zip(allowed, drawn.T, strict=True)], axis=1)


def all_indices(space: SearchSpace) -> Allowed:
    """Return the indices of all values of each choice."""
    return [np.arange(count) for count in space.cardinalities.tolist()]


def reject(space: SearchSpace, n: int, generator: np.random.Generator, allowed: Allowed | None) -> Genotypes:
    """Return the first n canonical valid genotypes of a limited number of draws, or fewer, (≤ n, g)."""
    parts = [space.genotypes([])]
    valid = drawn = 0
    size = n
    while valid < n and drawn < REJECTION_DRAWS + REJECTION_DRAWS_EACH * valid:
        rows = space.canonical(draw(space.cardinalities, size, generator, allowed))
        parts.append(rows[space.valid(rows)])
        valid += len(parts[-1])
        drawn += size
        expected = (n - valid) * drawn // max(valid, 1)  # number of draws that the missing ones need
        size = min(expected + 16, ROUND_SIZE)
    return np.concatenate(parts)[:n]


def rare_sampler(space: SearchSpace, allowed: Allowed | None) -> EnumeratedSampler | WalkSampler:
    """Return a sampler for a hook that refuses nearly everything; it follows from the space alone.

    Args:
        space: the space, with a valid hook.
        allowed: for each choice the value indices that may be drawn; None for all.

    Raises:
        SpaceError: if no valid architecture exists, or none is found.
    """
    if space.combinations <= ENUMERATION_LIMIT:
        return EnumeratedSampler(space, allowed)
    return WalkSampler(space, allowed)


class EnumeratedSampler:
    """Draws from all valid combinations, each with the probability that rejection sampling gives it."""

    def __init__(self, space: SearchSpace, allowed: Allowed | None) -> None:
        columns = np.arange(len(space.choices))
        indices = all_indices(space) if allowed is None else allowed
        chance = np.zeros((len(columns), int(space.cardinalities.max())))  # probability of each value, (g, v)
        for row, drawn in zip(chance, indices, strict=True):
            row[drawn] = 1.0 / len(drawn)
        rows, weights = [], []
        for block in space.combination_blocks():
            weight = np.where(space.active(block), chance[columns, block], 1.0).prod(axis=1)
            canonical = space.canonical(block[weight > 0])
            valid = space.valid(canonical)
            rows.append(canonical[valid])
            weights.append(weight[weight > 0][valid])
        self._rows = np.concatenate(rows)
        if not len(self._rows):
            values = "" if allowed is None else ", with the values that may be drawn"
            raise SpaceError(
                f"space {space.name!r}: the valid hook refuses all {space.combinations:,} combinations"
                f"{values}; loosen the hook"
            )
        self._cumulative = np.cumsum(np.concatenate(weights))

    def sample(self, n: int, generator: np.random.Generator) -> Genotypes:
        """Return n independent valid genotypes, (n, g); repeats are possible."""
        shares = generator.random(n) * self._cumulative[-1]
        return np.asarray(self._rows[np.searchsorted(self._cumulative[:-1], shares, side="right")])


class WalkSampler:
    """Draws by random walks over valid architectures, which start at a pool that is the same for all calls.

    A step changes one choice, changes two, exchanges the values of two, or moves a run of neighbouring
    choices to the next larger or smaller value. A step to an architecture that is not valid is not taken.
    Every step is as likely as its opposite, so in the long run all valid combinations that can be reached are
    equally likely.
    """

    def __init__(self, space: SearchSpace, allowed: Allowed | None) -> None:
        self._space = space
        indices = all_indices(space) if allowed is None else allowed
        self._counts = np.array([len(i) for i in indices])
        self._values = np.stack([np.resize(i, self._counts.max()) for i in indices])  # (g, values), padded
        generator = np.random.default_rng(0)
        starts = self._starts(generator)
        if not len(starts):
            raise SpaceError(
                f"space {space.name!r}: the valid hook refuses all of {SEARCH_DRAWS:,} random architectures: "
                f"the valid share is below {300 / SEARCH_DRAWS:.1g} % (95 % confidence). It also refuses as "
                "many architectures near the smallest, the largest and even ones; loosen the valid hook, or "
                "state what it forbids as conditions of the choices (Choice.requires)"
            )
        starts = starts[np.arange(POOL_SIZE) % len(starts)]
        self._pool = self._walk(starts, POOL_STEPS * len(indices), generator)
        different = len(np.unique(self._pool, axis=0))
        if different < FEW:
            log.warning(
                "space %r: the valid hook is so strict that only %d different architectures were found; if "
                "there are more, state what the hook forbids as conditions of the choices (Choice.requires)",
                space.name,
                different,
            )

    def sample(self, n: int, generator: np.random.Generator) -> Genotypes:
        """Return n valid genotypes, (n, g), by short walks from random members of the pool."""
        starts = self._pool[generator.integers(0, POOL_SIZE, n)]
        return self._genotypes(self._walk(starts, CALL_STEPS * len(self._counts), generator))

    def _genotypes(self, positions: NDArray[np.int64]) -> Genotypes:
        """Return the canonical genotypes of positions among the allowed values, (n, g)."""
        return self._space.canonical(self._values[np.arange(len(self._counts)), positions])

    def _starts(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return positions of valid architectures, (≤ POOL_SIZE, g), uniform ones if enough are found."""
        starts = self._valid_draws(self._uniform, generator)
        if len(starts) < FEW:
            starts = np.concatenate([starts, self._valid_draws(self._regular, generator)])
        return starts[:POOL_SIZE]

    def _valid_draws(
        self,
        proposal: Callable[[int, np.random.Generator], NDArray[np.int64]],
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Return the valid ones of at most SEARCH_DRAWS draws, (k, g)."""
        parts: list[NDArray[np.int64]] = []
        for _ in range(SEARCH_DRAWS // ROUND_SIZE):
            positions = proposal(ROUND_SIZE, generator)
            parts.append(positions[self._space.valid(self._genotypes(positions))])
            if sum(map(len, parts)) >= POOL_SIZE:
                break
        return np.concatenate(parts)

    def _uniform(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        return draw(self._counts, n, generator)

    def _regular(self, n: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw positions (n, g) at the same level in all choices, a random part of them changed.

        Hooks about order, sums and budgets allow such architectures more often than uniform ones.
        """
        # Half of the levels are the smallest or the largest value; in 3 of 13 rows nothing is changed.
        level = np.clip(generator.uniform(-0.5, 1.5, (n, 1)), 0, 1 - 1e-9)
        changed = generator.random((n, len(self._counts))) < generator.uniform(-0.3, 1, (n, 1))
        return np.where(changed, self._uniform(n, generator), (level * self._counts).astype(np.int64))

    def _walk(
        self, positions: NDArray[np.int64], steps: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Take `steps` steps from each of the positions (n, g)."""
        n, g = positions.shape
        rows, columns = np.arange(n), np.arange(g)
        for _ in range(steps):
            kind = generator.integers(0, 4, n)  # 0: change one, 1: change two, 2: exchange, 3: move a run
            first, second = np.sort(generator.integers(0, g, (2, n)), axis=0)
            direction = generator.integers(0, 2, n) * 2 - 1
            one, two = (generator.random((2, n)) * self._counts[[first, second]]).astype(np.int64)
            one = np.where(kind == 2, positions[rows, second], one)
            two = np.where(kind == 2, positions[rows, first], two)
            two = np.where(kind == 0, positions[rows, second], two)
            moved = (kind == 3) * direction
            run = (columns >= first[:, None]) & (columns <= second[:, None])
            proposed = positions + run * moved[:, None]
            changed = np.flatnonzero(kind < 3)
            proposed[changed, second[changed]] = two[changed]
            proposed[changed, first[changed]] = one[changed]  # after `two`: both may be the same choice
            fits = ((proposed >= 0) & (proposed < self._counts)).all(axis=1)
            proposed = np.where(fits[:, None], proposed, positions)
            valid = self._space.valid(self._genotypes(proposed))
            positions = np.where(valid[:, None], proposed, positions)
        return positions
