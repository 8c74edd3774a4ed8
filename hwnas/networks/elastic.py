"""Elastic ops: the largest weights of an op, from which every smaller version is cut.

A smaller version uses the first channels and the centre of the kernel (https://arxiv.org/abs/2003.11142), or
a trained transformation of it. The version to run is an argument, and so are the batch-norm statistics: no
module holds an active state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.errors import SpaceError
from hwnas.networks.blocks import empty_weight, register_weight
from hwnas.ops.base import RUNNING_MEAN, RUNNING_VAR, STATISTICS, Op, WeightSpec

# Batch-norm statistics, (c,) mean and variance, by "slot.op".
Moments = Mapping[str, tuple[Tensor, Tensor]]
Weights = dict[str, Tensor]
# From the name "slot.op" and the weights of an op to the weights for its forward pass, and the momentum.
Normalise = Callable[[str, Weights], tuple[Weights, float]]


def by_batch(name: str, weights: Weights) -> tuple[Weights, float]:
    """Normalise by the batch's own statistics, and record nothing."""
    return {key: tensor for key, tensor in weights.items() if key not in STATISTICS}, 0.0


def by_stored(name: str, weights: Weights) -> tuple[Weights, float]:
    """Normalise by the statistics that are stored beside the weights."""
    return weights, 0.0


def by_moments(moments: Moments) -> Normalise:
    """Normalise by the given statistics."""

    def normalise(name: str, weights: Weights) -> tuple[Weights, float]:
        if name not in moments:
            return weights, 0.0
        mean, var = moments[name]
        return {**weights, RUNNING_MEAN: mean, RUNNING_VAR: var}, 0.0

    return normalise


def by_batch_into(record: dict[str, tuple[Tensor, Tensor]]) -> Normalise:
    """Normalise by the batch's statistics, and put its mean and unbiased variance into `record`."""

    def normalise(name: str, weights: Weights) -> tuple[Weights, float]:
        if RUNNING_MEAN not in weights:
            return weights, 0.0
        mean = torch.zeros_like(weights[RUNNING_MEAN])
        record[name] = (mean, mean.clone())
        return {**weights, RUNNING_MEAN: mean, RUNNING_VAR: record[name][1]}, 1.0

    return normalise


class ElasticOp(nn.Module):
    """The weights of the largest version of an op, for all its versions.

    Stored batch-norm statistics are those of the largest version. With `kernel_transform` a smaller kernel is
    the centre of the next larger one, flattened, times a matrix that the channels share and that starts as
    the identity, and so on down to its size (https://arxiv.org/abs/1908.09791). The matrices are
    `kernel_7to5`, (25, 25), and `kernel_5to3`, (9, 9), where kernels are 3, 5 and 7.
    """

    def __init__(self, name: str, versions: Sequence[Op], kernel_transform: bool = False) -> None:
        """Register the weights of the largest version.

        Args:
            name: "slot.op", by which batch-norm statistics are known.
            versions: All versions of the op, which differ in sizes only.
            kernel_transform: Whether smaller kernels are trained transformations of larger ones.

        Raises:
            SpaceError: If the versions compute different functions: shared weights would serve neither.
        """
        super().__init__()
        functions = {version.function for version in versions}
        if len(functions) != 1:
            raise SpaceError(
                f"{name} differs in more than size between architectures: {sorted(map(str, functions))}"
            )
        specs = [version.weights() for version in versions]
        self.name = name
        self._cuts: dict[Op, tuple[tuple[str, tuple[slice, ...]], ...]] = {}
        self.specs = {name: _largest([each[name] for each in specs]) for name in specs[0]}
        self.kernels = sorted({size for each in specs for size in _kernel_sizes(each)}, reverse=True)
        self.kernel_transform = kernel_transform and len(self.kernels) > 1
        if self.kernel_transform:
            for larger, smaller in pairwise(self.kernels):
                self.register_parameter(_matrix_name(larger, smaller), nn.Parameter(torch.eye(smaller**2)))
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for weight, spec in self.specs.items():
            place = f"{versions[0].scope}{weight}"
            register_weight(self, place, empty_weight(spec), trained=weight not in STATISTICS)
            parent, _, last = place.rpartition(".")
            self._places[weight] = (self.get_submodule(parent), last)

    def __getstate__(self) -> dict[str, object]:
        """Return what travels to another process: all but the cache."""
        return {**self.__dict__, "_cuts": {}}

    def weight(self, name: str) -> Tensor:
        """Return the largest version of a weight, by its name in `Op.weights`."""
        module, last = self._places[name]
        tensor: Tensor = getattr(module, last)
        return tensor

    def cut(self, op: Op) -> Weights:
        """Return the weights of one version by the names of `Op.weights`: views, or transformed kernels."""
        if op not in self._cuts:
            self._cuts[op] = tuple((name, self._slices(name, spec)) for name, spec in op.weights().items())
        weights = {name: self.weight(name)[slices] for name, slices in self._cuts[op]}
        if self.kernel_transform:
            for name, spec in op.weights().items():
                if "kernel" in spec.axes:
                    weights[name] = self._transformed(name, spec)
        return weights

    def forward(self, op: Op, *inputs: Tensor, normalise: Normalise = by_stored) -> Tensor:
        """Compute one version.

        Args:
            op: The version.
            *inputs: Values (n, …) in the order of the op's inputs.
            normalise: Source of the batch-norm statistics.

        Returns:
            The output (n, …).
        """
        weights, momentum = normalise(self.name, self.cut(op))
        return op.forward(weights, *inputs, momentum=momentum)

    def _slices(self, name: str, spec: WeightSpec) -> tuple[slice, ...]:
        """Return the part of the largest weight that a version uses."""
        slices = []
        for axis, size, largest in zip(spec.axes, spec.shape, self.specs[name].shape, strict=True):
            start = (largest - size) // 2 if axis == "kernel" else 0
            slices.append(slice(start, start + size))
        return tuple(slices)

    def _transformed(self, name: str, spec: WeightSpec) -> Tensor:
        """Return a weight (out, per group, k, k) whose kernel is transformed from the largest one."""
        out, per_group, size, _ = spec.shape
        weight = self.weight(name)[:out, :per_group]
        for larger, smaller in pairwise(self.kernels):
            if larger <= size:
                break
            start = (larger - smaller) // 2
            flat = weight[:, :, start : start + smaller, start : start + smaller].flatten(2)
            flat = F.linear(flat, self.get_parameter(_matrix_name(larger, smaller)))
            weight = flat.reshape(out, per_group, smaller, smaller)
        return weight


def _largest(specs: Sequence[WeightSpec]) -> WeightSpec:
    """Return the specification that holds each version of a weight."""
    sizes = zip(*(spec.shape for spec in specs), strict=True)
    return WeightSpec(tuple(map(max, sizes)), specs[0].axes, specs[0].initial)


def _kernel_sizes(specs: Mapping[str, WeightSpec]) -> set[int]:
    return {
        size
        for spec in specs.values()
        for axis, size in zip(spec.axes, spec.shape, strict=True)
        if axis == "kernel"
    }


def _matrix_name(larger: int, smaller: int) -> str:
    return f"kernel_{larger}to{smaller}"
