"""Squeeze-and-excite: attention over channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwnas.ops.base import Op, TensorSpec, WeightSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder


@dataclass(frozen=True)
class SqueezeExcite(Op):
    """x · hard-sigmoid(expand(relu(reduce(mean(x))))), both 1×1 with bias. https://arxiv.org/abs/1709.01507

    (channels, h, w) to the same shape. The hard sigmoid is relu6(x + 3) / 6.
    """

    name: str
    channels: int
    reduced: int

    in_place: ClassVar[bool] = True

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        return x

    def weights(self) -> dict[str, WeightSpec]:
        c, r = self.channels, self.reduced
        return {
            "reduce.weight": WeightSpec((r, c, 1, 1), ("hidden", "through", "kernel", "kernel")),
            "reduce.bias": WeightSpec((r,), ("hidden",)),
            "expand.weight": WeightSpec((c, r, 1, 1), ("through", "hidden", "kernel", "kernel")),
            "expand.bias": WeightSpec((c,), ("through",)),
        }

    def macs(self, *inputs: TensorSpec) -> int:
        return 2 * self.channels * self.reduced

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        (x,) = inputs
        pooled = x.mean((2, 3), keepdim=True)
        hidden = F.relu(F.conv2d(pooled, weights["reduce.weight"], weights["reduce.bias"]))
        return x * F.hardsigmoid(F.conv2d(hidden, weights["expand.weight"], weights["expand.bias"]))

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        (x,) = inputs
        scale = graph.node("GlobalAveragePool", f"{name}.pool", x)
        for part, activation in (("reduce", "Relu"), ("expand", "HardSigmoid")):
            prefix = f"{name}.{part}"
            scale = graph.node(
                "Conv", prefix, scale, f"{prefix}.weight", f"{prefix}.bias", kernel_shape=[1, 1]
            )
            options = {"alpha": 1 / 6, "beta": 0.5} if activation == "HardSigmoid" else {}
            scale = graph.node(activation, f"{prefix}.{activation.lower()}", scale, **options)
        return graph.node("Mul", f"{name}.scale", x, scale)

    @property
    def latency_class(self) -> str:
        return "attention"
