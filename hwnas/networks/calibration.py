"""Batch-norm statistics of a subnet: they belong to an architecture, not to the shared weights.

Without statistics of its own a subnet's accuracy says little: https://arxiv.org/abs/1908.09791.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hwnas.errors import DataError, SpaceError
from hwnas.networks.base import WeightSharing, check_weight_sharing
from hwnas.networks.blocks import Inputs
from hwnas.networks.elastic import Moments
from hwnas.spaces import Architecture


@dataclass(frozen=True)
class Statistics:
    """Mean and variance, (c,) each, of every batch norm of one architecture, by ``"slot.layer"``."""

    arch: Architecture
    moments: Moments

    def of(self, arch: Architecture) -> Moments:
        """The moments, for this architecture only; SpaceError for another one."""
        if arch != self.arch:
            raise SpaceError(
                f"these statistics are of architecture {self.arch.id}, not of {arch.id}; "
                "calibrate each architecture"
            )
        return self.moments


@torch.no_grad()
def calibrate(
    net: WeightSharing, arch: Architecture, batches: Iterable[Inputs | tuple[Inputs, Tensor]]
) -> Statistics:
    """The batch-norm statistics of a subnet: mean and unbiased variance of each batch, averaged.

    A batch weighs in both averages as many times as it has images, so that every image counts alike.
    `batches` are images (n, c, h, w) at the architecture's resolution, mappings of inputs by name, or pairs
    of either and labels; training images, 1000 to 2000 in all, are usual. The mode, the weights and the
    stored statistics of the supernet are left as they are. DataError if there are no batches, or a batch is
    too small to have a variance; SpaceError if `net` is no supernet.
    """
    check_weight_sharing(net)
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    count = total = 0
    for batch in batches:
        inputs: Inputs = batch if isinstance(batch, Tensor | Mapping) else batch[0]
        tensors = inputs.values() if isinstance(inputs, Mapping) else inputs
        images = inputs if isinstance(inputs, Tensor) else next(iter(tensors))
        try:
            moments = net.batch_moments(inputs, arch)
        except ValueError as error:
            raise DataError(
                f"batch {count} of shape {tuple(images.shape)} has no variance ({error}); "
                "calibrate with batches of at least 2 images"
            ) from None
        count += 1
        total += len(images)
        for name, (mean, var) in moments.items():
            if name in totals:
                totals[name][0].add_(mean, alpha=len(images))
                totals[name][1].add_(var, alpha=len(images))
            else:
                totals[name] = (mean * len(images), var * len(images))
    if count == 0:
        raise DataError("there are no batches to calibrate with; give at least one (a generator serves once)")
    return Statistics(arch, {name: (mean / total, var / total) for name, (mean, var) in totals.items()})
