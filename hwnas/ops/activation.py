"""Activation functions, as an op of their own and as the last step of a convolution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwnas.errors import SpaceError
from hwnas.ops.base import Op, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder

ACTIVATIONS = ("identity", "relu", "relu6", "hswish")


def activate(activation: str, x: Tensor) -> Tensor:
    """Apply an activation function of `ACTIVATIONS` to a tensor of any shape."""
    import torch.nn.functional as F

    match activation:
        case "identity":
            return x
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "hswish":
            return F.hardswish(x)
    raise SpaceError(f"unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")


def add_activation(graph: GraphBuilder, name: str, activation: str, value: str) -> str:
    """Add the nodes of an activation function to an ONNX graph and return the name of its output."""
    match activation:
        case "identity":
            return value
        case "relu":
            return graph.node("Relu", name, value)
        case "relu6":
            return graph.node("Clip", name, value, graph.scalar("zero", 0.0), graph.scalar("six", 6.0))
        case "hswish":
            return graph.node("HardSwish", name, value)
    raise SpaceError(f"unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class Activation(Op):
    """An activation function of a value of any shape."""

    name: str
    activation: str

    in_place: ClassVar[bool] = True
    fused: ClassVar[bool] = True

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        return x

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        (x,) = inputs
        return activate(self.activation, x)

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        (x,) = inputs
        return add_activation(graph, name, self.activation, x)

    @property
    def function(self) -> Hashable:
        return type(self).__name__, self.activation
