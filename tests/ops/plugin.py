"""A space with a primitive and a block of its own, in a module that worker processes can import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwnas.ops import Conv, Graph, Linear, Op, Operator, TensorSpec, WeightSpec
from hwnas.ops.pool import GlobalPool
from hwnas.spaces import Choice, NetworkSpace, Slot


@dataclass(frozen=True)
class Shift(Op):
    """Add a trained value to each channel."""

    name: str
    channels: int

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        return inputs[0]

    def weights(self) -> dict[str, WeightSpec]:
        return {"shift": WeightSpec((self.channels, 1, 1), ("through", "", ""), initial=0.5)}

    def forward(self, weights: Mapping[str, Any], *inputs: Any, momentum: float = 0.0) -> Any:
        return inputs[0] + weights["shift"]

    def to_onnx(self, graph: Any, name: str, *inputs: str) -> str:
        return graph.node("Add", name, *inputs, f"{name}.shift")


def shifted(op: Operator) -> Graph:
    """A convolution, and a shift of its output."""
    conv = Conv("conv", op.in_shape[0], op.out_shape[0], op.integer("k"))
    return Graph.chain(op.in_shape, [conv, Shift("shift", op.out_shape[0])])


def pooled(op: Operator) -> Graph:
    """A mean and a linear layer."""
    return Graph.chain(op.in_shape, [GlobalPool("pool"), Linear("linear", op.in_shape[0], op.out_shape[0])])


class ShiftedSpace(NetworkSpace):
    """One shifted convolution of a searched width and kernel, and a classifier."""

    slots = (Slot("body", ("width", "kernel")), Slot("head", ("width",)))

    def __init__(self) -> None:
        super().__init__("shifted", [Choice("width", (4, 8)), Choice("kernel", (3, 5))])

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator:
        width = values["width"]
        if slot == "head":
            return Operator(pooled, (width, 8, 8), (3,), (), precision)
        return Operator(shifted, (1, 8, 8), (width, 8, 8), (("k", values["kernel"]),), precision)


def macs_and_keys(space: ShiftedSpace) -> tuple[list[float], list[str]]:
    """MACs of all architectures, and keys of all operators after a round through their text."""
    keys = [operator.key for operator in space.all_operators()]
    return space.macs(space.enumerate()).tolist(), [Operator.parse(key).key for key in keys]
