"""Fully connected layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwnas.ops.base import Op, TensorSpec, WeightSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder


@dataclass(frozen=True)
class Linear(Op):
    """Fully connected layer with bias of a flattened value, (in_features, 1, 1) to (out_features,)."""

    name: str
    in_features: int
    out_features: int

    scope: ClassVar[str] = "linear."

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        return TensorSpec((self.out_features,))

    def weights(self) -> dict[str, WeightSpec]:
        return {
            "weight": WeightSpec((self.out_features, self.in_features), ("out", "features")),
            "bias": WeightSpec((self.out_features,), ("out",)),
        }

    def macs(self, *inputs: TensorSpec) -> int:
        return self.in_features * self.out_features

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        (x,) = inputs
        return F.linear(x.flatten(1), weights["weight"], weights["bias"])

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        (x,) = inputs
        flat = graph.node("Flatten", f"{name}.flatten", x, axis=1)
        return graph.node("Gemm", name, flat, f"{name}.weight", f"{name}.bias", transB=1)
