"""The ends of a space."""

from __future__ import annotations

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces import Architecture, NetworkSpace


def largest(space: NetworkSpace) -> Architecture:
    """The architecture with the largest value of every choice."""
    return _extreme(space, [choice.values.index(max(choice.values)) for choice in space.choices])


def smallest(space: NetworkSpace) -> Architecture:
    """The architecture with the smallest value of every choice."""
    return _extreme(space, [choice.values.index(min(choice.values)) for choice in space.choices])


def _extreme(space: NetworkSpace, genotype: list[int]) -> Architecture:
    """SpaceError if the space's own rules refuse it."""
    ends = space.canonical(np.array([genotype]))
    if not space.valid(ends)[0]:
        refused = Architecture(space.id, tuple(ends[0].tolist()), space).values
        raise SpaceError(
            f"the valid hook of space {space.name!r} refuses {refused}, an end of the space, and training "
            "rests on both ends; allow it, or leave out the values that no network may have"
        )
    return space.architectures(ends)[0]
