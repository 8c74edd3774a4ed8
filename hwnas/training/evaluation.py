"""The accuracy of subnets: each with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwnas.networks.blocks import StaticNetwork
from hwnas.networks.calibration import Statistics, calibrate
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Architecture
from hwnas.training.data import Dataset

CALIBRATION_BATCH = 128
EVALUATION_BATCH = 256

Batches = list[tuple[Tensor, Tensor]]


class AccuracyEvaluator:
    """Top-1 accuracy of subnets in percent: ``evaluator(archs)`` has shape (n,).

    Each subnet is calibrated on the same `calibration_images` images of `calibration_data` (training
    images), drawn by `seed`, then judged on all of `data`, both at the subnet's resolution.
    """

    def __init__(
        self,
        net: Supernet,
        calibration_data: Dataset,
        data: Dataset,
        calibration_images: int = 1024,
        seed: int = 0,
    ) -> None:
        self.net = net
        self.calibration_data = calibration_data.subset(calibration_images, seed)
        self.data = data
        self._seed = seed
        self._batches: dict[int, tuple[Batches, Batches]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data on all that the values depend on."""
        return {
            "metric": "top-1 accuracy, percent",
            "supernet": self.net.checksum,
            "data": {**self.data.settings, "images": len(self.data), "sha256": self.data.checksum},
            "calibration": {
                **self.calibration_data.settings,
                "sha256": self.calibration_data.checksum,
                "batch_size": CALIBRATION_BATCH,
            },
        }

    def __call__(self, archs: Sequence[Architecture]) -> NDArray[np.float64]:
        """(n,) percent."""
        return np.array([self.accuracy(arch) for arch in archs], dtype=np.float64)

    def statistics(self, arch: Architecture) -> Statistics:
        """The batch-norm statistics by which a subnet is judged."""
        return calibrate(self.net, arch, self._at(arch)[0])

    def accuracy(self, arch: Architecture) -> float:
        """Percent of one subnet."""
        statistics = self.statistics(arch)
        with evaluating(self.net):
            return _accuracy(lambda images: self.net(images, arch, statistics), self._at(arch)[1])

    def _at(self, arch: Architecture) -> tuple[Batches, Batches]:
        """Calibration and evaluation batches at the resolution of an architecture, made once."""
        size = self.net.space.resolution(arch)
        if size not in self._batches:
            device = next(self.net.parameters()).device
            self._batches[size] = (
                _on(device, self.calibration_data.batches(CALIBRATION_BATCH, size)),
                _on(device, self.data.batches(EVALUATION_BATCH, size)),
            )
        return self._batches[size]


def _on(device: torch.device, batches: Iterator[tuple[Tensor, Tensor]]) -> Batches:
    return [(images.to(device), labels.to(device)) for images, labels in batches]


def accuracy_of(network: StaticNetwork, data: Dataset) -> float:
    """Top-1 accuracy in percent of a plain network, at its own resolution."""
    with evaluating(network):
        return _accuracy(network, data.batches(EVALUATION_BATCH, network.input_shape[1]))


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients, and the mode from before afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def _accuracy(
    logits: Callable[[Tensor], Tensor], batches: Iterator[tuple[Tensor, Tensor]] | Batches
) -> float:
    right = total = 0
    for images, labels in batches:
        right += int((logits(images).argmax(1) == labels).sum())
        total += len(labels)
    return 100.0 * right / total
