"""The ends of a space."""

from __future__ import annotations

import numpy as np

from hwnas.spaces import Architecture, NetworkSpace


def largest(space: NetworkSpace) -> Architecture:
    """The architecture with the largest value of every choice."""
    return _extreme(space, [choice.values.index(max(choice.values)) for choice in space.choices])


def smallest(space: NetworkSpace) -> Architecture:
    """The architecture with the smallest value of every choice."""
    return _extreme(space, [choice.values.index(min(choice.values)) for choice in space.choices])


def _extreme(space: NetworkSpace, genotype: list[int]) -> Architecture:
    return space.architectures(np.array([genotype]))[0]
