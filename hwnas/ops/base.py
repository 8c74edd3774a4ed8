"""The protocol of an op: one primitive, described once.

An op is a frozen dataclass. Its fields are the sizes and options of the primitive; its methods give the shape
of the output, the weights, the cost, the torch function and the ONNX nodes. The elastic layer of a supernet
and the static layer of a plain network both call `Op.forward`, so they compute the same by construction.

Torch and onnx are imported inside functions: search spaces need neither.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder

Shape = tuple[int, ...]  # without the batch axis

# Weights of a batch norm that are statistics of its input, not trained. A mapping of weights without them
# makes `Op.forward` normalise by the statistics of the batch.
RUNNING_MEAN, RUNNING_VAR = "norm.running_mean", "norm.running_var"
STATISTICS = (RUNNING_MEAN, RUNNING_VAR)


@dataclass(frozen=True)
class TensorSpec:
    """Shape, without the batch axis, and data type of a value.

    `dtype` is a name of NumPy, such as "float32" or "int64". `high` is the exclusive upper limit of the
    integers that an op accepts, such as the size of a vocabulary; None if it accepts any.
    """

    shape: Shape
    dtype: str = "float32"
    high: int | None = None

    @property
    def size(self) -> int:
        """Number of elements for one input."""
        return math.prod(self.shape)

    def bytes(self, float_bytes: int) -> int:
        """Number of bytes for one input, where an element of a float32 value has `float_bytes`."""
        return self.size * (float_bytes if self.dtype == "float32" else np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class WeightSpec:
    """Shape of a weight, and the meaning of each axis, which says how a smaller version is cut.

    Axes named "kernel" are cut at their centre, and all others keep their first entries. Channels of the axes
    "out" (written by the op), "in" (read by it), "through" (passed on one by one) and "hidden" (inside it)
    may be sorted by importance; axis 1 of a weight is the one that it reads.
    """

    shape: Shape
    axes: tuple[str, ...]
    initial: float | None = None  # constant first value; None: normal at He scale, or zero with one axis

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Op(ABC):
    """One primitive; subclasses are frozen dataclasses.

    `name` is unique within an operator; ops of one name in one slot of a network share their weights.
    """

    name: str

    in_place: ClassVar[bool] = False  # computed value by value, so that the output needs no memory of its own
    fused: ClassVar[bool] = False  # computed by runtimes as part of the op before it
    scope: ClassVar[str] = ""  # prefix of this op's weights in the files of supernets

    @abstractmethod
    def output(self, *inputs: TensorSpec) -> TensorSpec:
        """Shape and data type of the output.

        Args:
            *inputs: Shape and data type of each input.

        Returns:
            The specification of the one output.
        """

    def weights(self) -> dict[str, WeightSpec]:
        """Weights by name, as they are trained."""
        return {}

    def macs(self, *inputs: TensorSpec) -> int:
        """Multiply-accumulates of convolutions and matrix products for one input.

        Args:
            *inputs: Shape and data type of each input.

        Returns:
            The number of multiply-accumulates; other arithmetic is not counted.
        """
        return 0

    @abstractmethod
    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        """Compute the output with torch.

        Args:
            weights: Tensors by the names of `weights`. Without `STATISTICS`, batch norm uses those of the
                batch.
            *inputs: Values (n, …) in the order of the op's inputs.
            momentum: If positive, batch norm uses the statistics of the batch, and moves the given ones
                towards them by this share, in place.

        Returns:
            The output (n, …).
        """

    @abstractmethod
    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        """Add the ONNX nodes of this op to a graph.

        Args:
            graph: The graph under construction, which holds the shipped weights as ``<name>.<weight>``.
            name: Prefix of the names of nodes.
            *inputs: Names of the input values.

        Returns:
            The name of the output value.
        """

    # ---- weights as they are shipped ------------------------------------------------------------

    def shipped(self) -> dict[str, Shape]:
        """Shapes of the weights in ONNX by name, where batch norm is folded into convolutions."""
        return {name: spec.shape for name, spec in self.weights().items()}

    def fold(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as they are shipped, from those as they are trained."""
        return dict(weights)

    def unfold(self, shipped: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights as they are trained that compute the same as shipped ones."""
        return dict(shipped)

    # ---- properties that follow -----------------------------------------------------------------

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return sum(spec.size for name, spec in self.weights().items() if name not in STATISTICS)

    @property
    def gain(self) -> float:
        """Ratio of the variance of weights at He scale to the reciprocal of the number of inputs."""
        return 1.0

    @property
    def latency_class(self) -> str:
        """Class of ops whose work takes alike time: "dense", "depthwise" or "attention"."""
        return "dense"

    @property
    def output_scale(self) -> str | None:
        """Name of the weight that multiplies the whole output, if there is one.

        A supernet sets it to zero at the end of a residual branch, so that the block starts as the identity.
        """
        return None

    @property
    def function(self) -> Hashable:
        """Everything but sizes. Ops share weights only if they compute the same function."""
        return type(self).__name__
