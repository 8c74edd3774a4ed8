"""The accuracy of subnets: each with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hwnas.errors import EvaluationError
from hwnas.memory import keep_freed_memory
from hwnas.networks.base import WeightSharing, check_weight_sharing
from hwnas.networks.blocks import StaticNetwork
from hwnas.networks.calibration import Statistics, calibrate
from hwnas.spaces import Architecture
from hwnas.training.data import Dataset

CALIBRATION_BATCH = 128
EVALUATION_BATCH = 128
KEPT_SHARE = 0.25  # of the memory that is free then, for a dataset at one resolution

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Top1Result:
    """The images that a network classifies correctly.

    `correct`, bool (n,), and `labels`, int64 (n,), are in the order of the images.
    """

    correct: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * int(self.correct.sum()) / len(self.correct)

    def by_class(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        """Count the images of each class.

        Args:
            classes: The names of the classes, in the order of the labels.

        Returns:
            For each class, by name, `images`, and how many of them are `correct`.
        """
        images = np.bincount(self.labels, minlength=len(classes)).tolist()
        correct = np.bincount(self.labels[self.correct], minlength=len(classes)).tolist()
        return {
            name: {"correct": right, "images": total}
            for name, right, total in zip(classes, correct, images, strict=True)
        }


class AccuracyEvaluator:
    """Top-1 accuracy of subnets in percent: ``evaluator(archs)`` has shape (n,).

    Each subnet is calibrated on the same `calibration_images` images of `calibration_data` (training
    images), drawn by `seed`, then judged on all of `data`, both at the subnet's resolution. SpaceError if
    `net` is no supernet.
    """

    def __init__(
        self,
        net: WeightSharing,
        calibration_data: Dataset,
        data: Dataset,
        calibration_images: int = 1024,
        seed: int = 0,
    ) -> None:
        check_weight_sharing(net)
        self.net = net
        self.calibration_data = calibration_data.subset(calibration_images, seed)
        self.data = data
        self._seed = seed
        self._kept: dict[tuple[Dataset, int, torch.device], Batches] = {}

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
        """Return the accuracies (n,) in percent.

        Raises:
            EvaluationError: if the outputs of a subnet are NaN or infinite.
        """
        keep_freed_memory()
        return np.array([self.accuracy(arch) for arch in archs], dtype=np.float64)

    def statistics(self, arch: Architecture) -> Statistics:
        """The batch-norm statistics by which a subnet is judged."""
        return calibrate(self.net, arch, self._batches(self.calibration_data, CALIBRATION_BATCH, arch))

    def accuracy(self, arch: Architecture) -> float:
        """Return the accuracy of one subnet in percent; raises EvaluationError as a call does."""
        statistics = self.statistics(arch)
        with evaluating(self.net):
            return top1(
                lambda images: self.net(images, arch, statistics), self.batches(arch), self.title(arch)
            ).accuracy

    def title(self, arch: Architecture) -> str:
        """The name of an evaluation in messages."""
        return f"architecture {arch.id} on {self.data.title}"

    def batches(self, arch: Architecture) -> Batches:
        """Images at a subnet's resolution, where the weights are, and labels: what it is judged on."""
        return self._batches(self.data, EVALUATION_BATCH, arch)

    def _batches(self, data: Dataset, batch: int, arch: Architecture) -> Batches:
        """The batches of a dataset at the resolution of an architecture, made once where there is room.

        Otherwise they are made anew for each architecture.
        """
        size, device = self.net.space.resolution(arch), next(self.net.parameters()).device
        key = data, size, device
        if key in self._kept:
            return self._kept[key]
        made = _channels_last(data.batches(batch, size), device)
        needed = len(data) * len(data.mean) * size**2 * torch.float32.itemsize
        if needed > KEPT_SHARE * _free_bytes(device):
            return made
        self._kept[key] = list(made)
        return self._kept[key]


def accuracy_of(network: StaticNetwork, data: Dataset) -> float:
    """Top-1 accuracy in percent of a plain network, at its own resolution."""
    return top1_of(network, data).accuracy


def top1_of(network: StaticNetwork, data: Dataset, name: str = "the network") -> Top1Result:
    """Classify the images of a dataset by a plain network, at its own resolution.

    Args:
        network: A network of hwnas.
        data: Labelled images.
        name: The name of the network in error messages.

    Returns:
        The result for all images of the dataset.

    Raises:
        EvaluationError: if outputs of the network are NaN or infinite.
    """
    device = next(network.parameters()).device
    with evaluating(network):
        batches = data.batches(EVALUATION_BATCH, network.input_shape[1])
        return top1(network, _channels_last(batches, device), f"{name} on {data.title}")


def top1(logits: Callable[[Tensor], Tensor], batches: Batches, name: str = "the network") -> Top1Result:
    """Classify images by the largest logit.

    Args:
        logits: A function from images (k, c, h, w) to logits (k, classes).
        batches: Pairs of images (k, c, h, w) and labels (k,).
        name: The name of the network and the data in error messages.

    Returns:
        The result for all n images of the batches.

    Raises:
        EvaluationError: if a logit is NaN or infinite: the largest of such logits says nothing.
    """
    correct, finite, every_label = [], [], []
    for images, labels in batches:
        outputs = logits(images)
        finite.append(outputs.isfinite().all(1))
        correct.append(outputs.argmax(1) == labels)
        every_label.append(labels)
    check_finite(torch.cat(finite).cpu().numpy(), name)
    return Top1Result(torch.cat(correct).cpu().numpy(), torch.cat(every_label).cpu().numpy())


def check_finite(finite: ArrayLike, name: str) -> None:
    """Raise EvaluationError unless the outputs of a network are finite for each image.

    Args:
        finite: (n,) whether all outputs for an image are finite.
        name: The name of the network and the data in the message.
    """
    bad = np.flatnonzero(~np.asarray(finite, dtype=bool))
    if not len(bad):
        return
    raise EvaluationError(
        f"{name}: the outputs for {len(bad)} of {np.size(finite)} images are NaN or infinite, first for "
        f"image {bad[0]}; check the values of this image and the weights of the network"
    )


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


def _free_bytes(device: torch.device) -> int:
    """Of the memory of a device."""
    on_gpu = device.type == "cuda"
    return int(torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available)


def _channels_last(batches: Batches, device: torch.device) -> Batches:
    """Batches where they are computed on, in the memory layout in which convolutions are faster."""
    layout = torch.channels_last
    return ((x.to(device, memory_format=layout), labels.to(device)) for x, labels in batches)
