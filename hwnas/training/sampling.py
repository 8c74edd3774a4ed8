"""The ends of a space, and one architecture at several resolutions."""

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


def at_each_resolution(space: NetworkSpace, arch: Architecture) -> list[Architecture]:
    """The architecture at every resolution that the space allows it at."""
    names = [choice.name for choice in space.choices]
    if "resolution" not in names:
        return [arch]
    position = names.index("resolution")
    genotypes = np.repeat([arch.genotype], len(space.choices[position].values), axis=0)
    genotypes[:, position] = np.arange(len(genotypes))
    genotypes = space.canonical(genotypes)
    return list(space.architectures(genotypes[space.valid(genotypes)]))


def _extreme(space: NetworkSpace, genotype: list[int]) -> Architecture:
    """SpaceError if the space's own rules refuse it."""
    end = Architectures(space, space.canonical(np.array([genotype])))[0]
    if not space.valid([end])[0]:
        raise SpaceError(
            f"the valid hook of space {space.name!r} refuses {end.values}, an end of the space, and training "
            "rests on both ends; allow it, or leave out the values that no network may have"
        )
    return end
