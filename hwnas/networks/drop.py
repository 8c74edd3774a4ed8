"""What is left out at random while a network trains, so that no part of it is relied on alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drop:
    """Dropout before the classifier, and drop-connect of what blocks add to their input.

    Shares of features and of images, 0…1; what stays is scaled so that the mean is kept. Drawn by a generator
    of the CPU.
    """

    features: float
    connect: float
    generator: torch.Generator

    def of_features(self, x: Tensor) -> Tensor:
        """(n, …) with single features zero: https://arxiv.org/abs/1207.0580."""
        return x * self._kept(x.shape, self.features, x)

    def of_branch(self, x: Tensor, depth: float) -> Tensor:
        """Set the branch of a block, (n, …), to zero for some samples: https://arxiv.org/abs/1603.09382.

        The share grows with the block's `depth` in the network, 0…1.
        """
        return x * self._kept((len(x), *(1,) * (x.dim() - 1)), self.connect * depth, x)

    def _kept(self, shape: tuple[int, ...], share: float, x: Tensor) -> Tensor:
        kept = torch.rand(shape, generator=self.generator) >= share
        return (kept / (1 - share)).to(x.device, x.dtype)
