"""Pooling over height and width: everything, the largest of each window, the mean of each window."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.ops.base import Op, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder


@dataclass(frozen=True)
class GlobalPool(Op):
    """Mean over height and width, (c, h, w) to (c, 1, 1)."""

    name: str

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        return TensorSpec((x.shape[0], 1, 1))

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        (x,) = inputs
        return x.mean((2, 3), keepdim=True)

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        return graph.node("GlobalAveragePool", name, *inputs)


@dataclass(frozen=True)
class MaxPool(Op):
    """The largest value of each `window` × `window`, an odd number, with "same" padding."""

    name: str
    window: int
    stride: int

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        return TensorSpec((x.shape[0], *(-(-s // self.stride) for s in x.shape[1:])))

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        (x,) = inputs
        return F.max_pool2d(x, self.window, self.stride, self.window // 2)

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        window, strides, pads = [self.window] * 2, [self.stride] * 2, [self.window // 2] * 4
        return graph.node("MaxPool", name, *inputs, kernel_shape=window, strides=strides, pads=pads)

    @property
    def function(self) -> Hashable:
        return type(self).__name__, self.window, self.stride


@dataclass(frozen=True)
class AveragePool(Op):
    """The mean of each `window` × `window`, side by side. Windows at the far edges may be smaller."""

    name: str
    window: int

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        return TensorSpec((x.shape[0], *(-(-s // self.window) for s in x.shape[1:])))

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        (x,) = inputs
        return F.avg_pool2d(x, self.window, ceil_mode=True)

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        window = [self.window] * 2
        return graph.node("AveragePool", name, *inputs, kernel_shape=window, strides=window, ceil_mode=1)

    @property
    def function(self) -> Hashable:
        return type(self).__name__, self.window
