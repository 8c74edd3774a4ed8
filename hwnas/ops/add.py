"""The sum of two values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwnas.errors import SpaceError
from hwnas.ops.base import Op, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder


@dataclass(frozen=True)
class Add(Op):
    """The sum of a branch and a shortcut, of one shape.

    While a network trains with stochastic depth, the branch, which is the first input, is left out at random.
    """

    name: str

    in_place: ClassVar[bool] = True
    fused: ClassVar[bool] = True

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        branch, shortcut = inputs
        if branch != shortcut:
            raise SpaceError(f"{self.name} adds values of shapes {branch.shape} and {shortcut.shape}")
        return branch

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        branch, shortcut = inputs
        return branch + shortcut

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        return graph.node("Add", name, *inputs)
