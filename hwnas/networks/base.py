"""The interface of weights that the networks of a space share.

Calibration, evaluation, training and export take any subclass of `WeightSharing`. `Supernet` is hwnas's own.
Another example is a set of supernets, each for a part of the space.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hwnas.errors import SpaceError
from hwnas.spaces import Architecture, NetworkSpace
from hwnas.store import digest

if TYPE_CHECKING:
    from hwnas.networks.blocks import Inputs, StaticNetwork
    from hwnas.networks.calibration import Statistics
    from hwnas.networks.elastic import ElasticOp, Moments


class WeightSharing(nn.Module, ABC):
    """The weights of every architecture of `space` at once, as a torch module with at least one parameter.

    It keeps no active state: the subnet, and the batch-norm statistics by which it normalises, are arguments.
    A subclass sets `space`. Parameters and buffers hold all that training changes, so that checkpoints and
    `checksum` are complete. An evaluator that is sent to another process pickles it.

    `has_statistics` says whether statistics that are stored with the weights fit each subnet. Training sets
    it to False. `metadata` is plain data on the training, which `hwnas.train` sets.
    """

    space: NetworkSpace
    has_statistics: bool = False
    metadata: dict[str, Any]

    @property
    def checksum(self) -> str:
        """SHA-256, in hexadecimal digits, over the space's definition and the weights."""
        return digest([self.space.definition, tensors_digest(self.state_dict())])

    @abstractmethod
    def forward(self, inputs: Inputs, arch: Architecture, statistics: Statistics | None = None) -> Tensor:
        """Compute the logits of a subnet.

        An implementation that can leave out features and blocks in training has one more optional argument,
        `drop`, a `hwnas.networks.drop.Drop`. Training asks for it only with `training.dropout` or
        `training.drop_connect`.

        Args:
            inputs: The tensor of one input, such as images (n, c, height, width); tensors in the order of
                `space.inputs(arch)`; or tensors by name.
            arch: The subnet.
            statistics: In eval mode its batch-norm statistics, from `calibrate`. In training mode batch norm
                uses the statistics of the batch.

        Returns:
            Logits (n, classes).
        """

    @abstractmethod
    def batch_moments(self, inputs: Inputs, arch: Architecture) -> Moments:
        """Compute what each batch norm of a subnet normalises by in training.

        Args:
            inputs: As for `forward`, n ≥ 2.
            arch: The subnet.

        Returns:
            Mean and unbiased variance, (channels,) each, by the name of the batch norm; `calibrate` averages
            them over batches, and `forward` and `extract` get them back by these names.

        Raises:
            ValueError: if the batch is too small to have a variance.
        """

    @abstractmethod
    def extract(self, arch: Architecture, statistics: Statistics | None = None) -> StaticNetwork:
        """Return a subnet as a plain network in eval mode, which shares no memory with these weights.

        Args:
            arch: The subnet.
            statistics: Its batch-norm statistics.

        Returns:
            The network of `space.network(arch)`; its outputs are those of
            ``self(inputs, arch, statistics)``.
        """


class ElasticWeights(WeightSharing):
    """Weights of which every version of an op is cut from those of the largest version."""

    @abstractmethod
    def op(self, slot: str, name: str) -> ElasticOp:
        """Return an elastic op by the names of its slot and of itself."""


def check_weight_sharing(net: object) -> None:
    """Check that an argument is a supernet.

    Args:
        net: The argument.

    Raises:
        SpaceError: if it is none.
    """
    if not isinstance(net, WeightSharing):
        raise SpaceError(
            f"expected a supernet, got a {type(net).__name__}; give a Supernet, or a subclass of "
            "hwnas.networks.base.WeightSharing"
        )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal digits, over the names, types, shapes and values of tensors."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
