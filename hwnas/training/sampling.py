"""The ends of a space."""

from __future__ import annotations

import numpy as np

from hwnas.errors import SpaceError
from hwnas.spaces import Architecture, Architectures, NetworkSpace


def largest(space: NetworkSpace) -> Architecture:
    """The architecture with the largest value of every choice."""
    return _extreme(space, [choice.values.index(max(choice.values)) for choice in space.choices])


def smallest(space: NetworkSpace) -> Architecture:
    """The architecture with the smallest value of every choice."""
    return _extreme(space, [choice.values.index(min(choice.values)) for choice in space.choices])


def _extreme(space: NetworkSpace, genotype: list[int]) -> Architecture:
    """SpaceError if the space's own rules refuse it."""
    end = Architectures(space, space.canonical(np.array([genotype])))[0]
    if not space.valid([end])[0]:
        raise SpaceError(
            f"the valid hook of space {space.name!r} refuses {end.values}, an end of the space, and training "
            "rests on both ends; allow it, or leave out the values that no network may have"
        )
    return end
