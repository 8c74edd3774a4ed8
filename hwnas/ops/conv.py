"""Convolution with batch norm and activation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.ops.activation import activate, add_activation
from hwnas.ops.base import RUNNING_MEAN, RUNNING_VAR, Op, Shape, TensorSpec, WeightSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.ops.onnx import GraphBuilder

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Conv(Op):
    """Convolution with "same" padding for odd kernels, optional bias, batch norm and activation.

    (c, h, w) to (out_channels, h', w'). `eps` is added to the variance by batch norm.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    norm: bool = True
    bias: bool = False
    activation: str = "identity"
    eps: float = NORM_EPS

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out, in per group, k, k)."""
        return (self.out_channels, 1 if self.depthwise else self.in_channels, self.kernel, self.kernel)

    def output(self, *inputs: TensorSpec) -> TensorSpec:
        (x,) = inputs
        size = [(s + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1 for s in x.shape[1:]]
        return TensorSpec((self.out_channels, *size))

    def weights(self) -> dict[str, WeightSpec]:
        channels = (self.out_channels,)
        out = "through" if self.depthwise else "out"
        read = "group" if self.depthwise else "in"
        weights = {"conv.weight": WeightSpec(self.weight_shape, (out, read, "kernel", "kernel"))}
        if self.bias:
            weights["conv.bias"] = WeightSpec(channels, (out,))
        if self.norm:
            weights["norm.weight"] = WeightSpec(channels, (out,), initial=1.0)
            weights["norm.bias"] = WeightSpec(channels, (out,))
            weights[RUNNING_MEAN] = WeightSpec(channels, (out,), initial=0.0)
            weights[RUNNING_VAR] = WeightSpec(channels, (out,), initial=1.0)
        return weights

    def macs(self, *inputs: TensorSpec) -> int:
        _, height, width = self.output(*inputs).shape
        out, per_group, kernel, _ = self.weight_shape
        return out * per_group * kernel * kernel * height * width

    def forward(self, weights: Mapping[str, Tensor], *inputs: Tensor, momentum: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        (x,) = inputs
        groups = self.in_channels if self.depthwise else 1
        weight, bias = weights["conv.weight"], weights.get("conv.bias")
        x = F.conv2d(x, weight, bias, self.stride, self.kernel // 2, groups=groups)
        if self.norm:
            mean, var = weights.get(RUNNING_MEAN), weights.get(RUNNING_VAR)
            scale, shift = weights["norm.weight"], weights["norm.bias"]
            by_batch = mean is None or momentum > 0
            x = F.batch_norm(x, mean, var, scale, shift, by_batch, momentum, self.eps)
        return activate(self.activation, x)

    def to_onnx(self, graph: GraphBuilder, name: str, *inputs: str) -> str:
        (x,) = inputs
        value = graph.node(
            "Conv",
            name,
            x,
            f"{name}.weight",
            f"{name}.bias",
            kernel_shape=[self.kernel] * 2,
            strides=[self.stride] * 2,
            pads=[self.kernel // 2] * 4,
            group=self.in_channels if self.depthwise else 1,
        )
        return add_activation(graph, f"{name}.{self.activation}", self.activation, value)

    def shipped(self) -> dict[str, Shape]:
        return {"weight": self.weight_shape, "bias": (self.out_channels,)}

    def fold(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weight and bias of the one convolution that equals convolution and batch norm."""
        import torch

        weight, bias = weights["conv.weight"].double(), weights.get("conv.bias")
        bias = torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias.double()
        if self.norm:
            mean, var = weights[RUNNING_MEAN].double(), weights[RUNNING_VAR].double()
            scale = weights["norm.weight"].double() / torch.sqrt(var + self.eps)
            weight = weight * scale[:, None, None, None]
            bias = (bias - mean) * scale + weights["norm.bias"].double()
        return {"weight": weight, "bias": bias}

    def unfold(self, shipped: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights whose batch norm, where there is one, only adds the shipped bias."""
        import torch

        weights, bias = {"conv.weight": shipped["weight"]}, shipped["bias"]
        if not self.norm:
            return {**weights, "conv.bias": bias}
        if self.bias:
            weights["conv.bias"] = torch.zeros_like(bias)
        weights |= {"norm.weight": torch.ones_like(bias), "norm.bias": bias}
        variance = torch.full_like(bias, 1.0 - self.eps)
        return {**weights, RUNNING_MEAN: torch.zeros_like(bias), RUNNING_VAR: variance}

    @property
    def gain(self) -> float:
        return 1.0 if self.activation == "identity" else 2.0

    @property
    def latency_class(self) -> str:
        return "depthwise" if self.depthwise else "dense"

    @property
    def output_scale(self) -> str | None:
        """The scale of batch norm; not through an activation, whose gradient at zero is zero."""
        return "norm.weight" if self.norm and self.activation == "identity" else None

    @property
    def function(self) -> Hashable:
        options = (self.stride, self.depthwise, self.norm, self.bias, self.activation, self.eps)
        return type(self).__name__, options
