"""Which subnets a training step trains."""

from __future__ import annotations

import numpy as np

from hwnas.spaces import Architecture, NetworkSpace


def largest(space: NetworkSpace) -> Architecture:
    """The architecture with the largest value of every choice."""
    return _extreme(space, [choice.values.index(max(choice.values)) for choice in space.choices])


def smallest(space: NetworkSpace) -> Architecture:
    """The architecture with the smallest value of every choice."""
    return _extreme(space, [choice.values.index(min(choice.values)) for choice in space.choices])


def sandwich(space: NetworkSpace, random_subnets: int, rng: np.random.Generator) -> list[Architecture]:
    """The largest, the smallest, and random ones between: https://arxiv.org/abs/2003.11142."""
    return [largest(space), smallest(space), *space.sample(random_subnets, rng)]


def _extreme(space: NetworkSpace, genotype: list[int]) -> Architecture:
    return space.architectures(np.array([genotype]))[0]
