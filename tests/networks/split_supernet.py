"""A second implementation of shared weights: one supernet for each value of a choice.

Architectures share weights only where they have the same value (few-shot NAS,
https://arxiv.org/abs/2006.06863).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from hwnas.networks.base import WeightSharing
from hwnas.networks.blocks import StaticNetwork
from hwnas.networks.calibration import Statistics
from hwnas.networks.elastic import Moments
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Architecture, NetworkSpace


class SplitSupernet(WeightSharing):
    """Supernets of the parts of a space in which one choice has a single value."""

    def __init__(self, space: NetworkSpace, choice: str, rng: int = 0) -> None:
        super().__init__()
        self.space = space
        self.column = space.index(choice)
        values = space.choices[self.column].values
        self.parts = nn.ModuleList(Supernet(space.restrict({choice: [value]}), rng) for value in values)

    def part(self, arch: Architecture) -> Supernet:
        """The supernet with the weights of an architecture."""
        return cast(Supernet, self.parts[int(self.space.genotypes([arch])[0, self.column])])

    def forward(self, inputs: Tensor, arch: Architecture, statistics: Statistics | None = None) -> Tensor:
        logits: Tensor = self.part(arch)(inputs, arch, statistics)
        return logits

    def batch_moments(self, inputs: Tensor, arch: Architecture) -> Moments:
        return self.part(arch).batch_moments(inputs, arch)

    def extract(self, arch: Architecture, statistics: Statistics | None = None) -> StaticNetwork:
        return self.part(arch).extract(arch, statistics)
