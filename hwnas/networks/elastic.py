"""Elastic layers: the largest weights of a layer, shared by every smaller version of it.

A smaller layer uses the first channels and the centre of the kernel (https://arxiv.org/abs/2003.11142), or a
trained transformation of it.
`sliced(layer)` says which parts, under the names that the static block gives them; the forward pass and
`Supernet.extract` both take them from there, so they cannot differ. Which version is wanted is an
argument, and so is the way to normalise: no layer holds any active state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.errors import SpaceError
from hwnas.networks.blocks import ACTIVATION_FUNCTIONS, pooled
from hwnas.spaces.operators import AveragePool, Conv, GlobalPool, Layer, Linear, MaxPool, Pool, SqueezeExcite

# Batch-norm statistics, (c,) mean and variance, by "slot.layer".
Moments = Mapping[str, tuple[Tensor, Tensor]]
# From a convolution's name "slot.layer", its batch norm and its output (n, c, h, w) to the normalised output.
Normalise = Callable[[str, "ElasticNorm", Tensor], Tensor]


class ElasticNorm(nn.Module):
    """Batch norm of up to `channels`. The stored statistics are the largest layer's."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def normalised(self, x: Tensor, mean: Tensor | None, var: Tensor | None, momentum: float = 0.0) -> Tensor:
        """(n, c, h, w) normalised by the given (c,) statistics, or by the batch's where there are none.

        With a `momentum` the batch's are used and the given ones move towards them.
        """
        c = x.shape[1]
        batch = mean is None or momentum > 0
        return F.batch_norm(x, mean, var, self.weight[:c], self.bias[:c], batch, momentum, self.eps)


def by_batch(name: str, norm: ElasticNorm, x: Tensor) -> Tensor:
    """Normalise by the batch's own statistics, leaving no trace."""
    return norm.normalised(x, None, None)


def by_stored(name: str, norm: ElasticNorm, x: Tensor) -> Tensor:
    """Normalise by the statistics stored beside the weights."""
    c = x.shape[1]
    return norm.normalised(x, norm.running_mean[:c], norm.running_var[:c])


def by_moments(moments: Moments) -> Normalise:
    """Normalise by given statistics."""
    return lambda name, norm, x: norm.normalised(x, *moments[name])


def by_batch_into(record: dict[str, tuple[Tensor, Tensor]]) -> Normalise:
    """Normalise by the batch's statistics, and put its mean and unbiased variance into `record`."""

    def normalise(name: str, norm: ElasticNorm, x: Tensor) -> Tensor:
        zeros = torch.zeros_like(norm.running_mean[: x.shape[1]])
        record[name] = (zeros, zeros.clone())
        return norm.normalised(x, *record[name], momentum=1.0)

    return normalise


class ElasticConv(nn.Module):
    """Convolution, batch norm and activation of up to the largest channels and kernel.

    A smaller kernel is the centre of the largest. With `kernel_transform` it is the centre of the next larger
    one, flattened, times a matrix that the channels share and that starts as the identity, and so on down to
    the wanted size (https://arxiv.org/abs/1908.09791). The matrices are `kernel_7to5`, (25, 25), and
    `kernel_5to3`, (9, 9), where kernels are 3, 5 and 7.
    """

    def __init__(self, layers: Sequence[Conv], kernel_transform: bool = False) -> None:
        super().__init__()
        first = layers[0]
        out, _, kernel, _ = (
            max(sizes) for sizes in zip(*(layer.weight_shape for layer in layers), strict=True)
        )
        channels = max(layer.in_channels for layer in layers)
        groups = channels if first.depthwise else 1
        self.activation = first.activation
        self.conv = nn.Conv2d(channels, out, kernel, groups=groups, bias=first.bias)
        self.norm = ElasticNorm(out, first.eps) if first.norm else None
        self.kernels = sorted({layer.kernel for layer in layers}, reverse=True)
        self.kernel_transform = kernel_transform
        if kernel_transform:
            for larger, smaller in pairwise(self.kernels):
                self.register_parameter(_matrix_name(larger, smaller), nn.Parameter(torch.eye(smaller**2)))

    def kernel(self, size: int, out: int, per_group: int) -> Tensor:
        """The weight of the first channels with a kernel of this size, (out, per_group, size, size)."""
        weight = self.conv.weight[:out, :per_group]
        if not self.kernel_transform:
            return _centre(weight, size)
        for larger, smaller in pairwise(self.kernels):
            if larger <= size:
                break
            flat = _centre(weight, smaller).flatten(2)
            flat = F.linear(flat, self.get_parameter(_matrix_name(larger, smaller)))
            weight = flat.reshape(out, per_group, smaller, smaller)
        return weight

    def sliced(self, layer: Conv) -> dict[str, Tensor]:
        """The part that `layer` uses, by the names in its static block's state dict."""
        out, per_group, k, _ = layer.weight_shape
        parts = {"conv.weight": self.kernel(k, out, per_group)}
        if self.conv.bias is not None:
            parts["conv.bias"] = self.conv.bias[:out]
        if self.norm is not None:
            for name, tensor in self.norm.state_dict(keep_vars=True).items():
                parts[f"norm.{name}"] = tensor[:out]
        return parts

    def forward(self, x: Tensor, layer: Conv, name: str, normalise: Normalise) -> Tensor:
        out, per_group, k, _ = layer.weight_shape
        weight = self.kernel(k, out, per_group)
        bias = None if self.conv.bias is None else self.conv.bias[:out]
        groups = layer.in_channels if layer.depthwise else 1
        x = F.conv2d(x, weight, bias, layer.stride, k // 2, groups=groups)
        if self.norm is not None:
            x = normalise(name, self.norm, x)
        return ACTIVATION_FUNCTIONS[layer.activation](x)


def _centre(weight: Tensor, size: int) -> Tensor:
    start = (weight.shape[2] - size) // 2
    return weight[:, :, start : start + size, start : start + size]


def _matrix_name(larger: int, smaller: int) -> str:
    return f"kernel_{larger}to{smaller}"


class ElasticSqueezeExcite(nn.Module):
    """Channel attention of up to the largest channels."""

    def __init__(self, layers: Sequence[SqueezeExcite]) -> None:
        super().__init__()
        channels = max(layer.channels for layer in layers)
        reduced = max(layer.reduced for layer in layers)
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def sliced(self, layer: SqueezeExcite) -> dict[str, Tensor]:
        """The part that `layer` uses, by the names in its static block's state dict."""
        c, r = layer.channels, layer.reduced
        assert self.reduce.bias is not None
        assert self.expand.bias is not None
        return {
            "reduce.weight": self.reduce.weight[:r, :c],
            "reduce.bias": self.reduce.bias[:r],
            "expand.weight": self.expand.weight[:c, :r],
            "expand.bias": self.expand.bias[:c],
        }

    def forward(self, x: Tensor, layer: SqueezeExcite, name: str, normalise: Normalise) -> Tensor:
        part = self.sliced(layer)
        hidden = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), part["reduce.weight"], part["reduce.bias"]))
        return x * F.hardsigmoid(F.conv2d(hidden, part["expand.weight"], part["expand.bias"]))


class ElasticPool(nn.Module):
    """Pooling, which has no weights."""

    def __init__(self, layers: Sequence[Pool]) -> None:
        super().__init__()

    def sliced(self, layer: Pool) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def forward(self, x: Tensor, layer: Pool, name: str, normalise: Normalise) -> Tensor:
        return pooled(layer, x)


class ElasticLinear(nn.Module):
    """Fully connected layer of up to the largest features."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        super().__init__()
        out = max(layer.out_features for layer in layers)
        self.linear = nn.Linear(max(layer.in_features for layer in layers), out)

    def sliced(self, layer: Linear) -> dict[str, Tensor]:
        """The part that `layer` uses, by the names in its static block's state dict."""
        out, features = layer.out_features, layer.in_features
        return {"weight": self.linear.weight[:out, :features], "bias": self.linear.bias[:out]}

    def forward(self, x: Tensor, layer: Linear, name: str, normalise: Normalise) -> Tensor:
        part = self.sliced(layer)
        return F.linear(x.flatten(1), part["weight"], part["bias"])


class ElasticLayer(Protocol):
    """What the layers of this module have in common; `layer` is the version that is wanted."""

    def sliced(self, layer: Any) -> dict[str, Tensor]: ...

    def __call__(self, x: Tensor, layer: Any, name: str, normalise: Normalise) -> Tensor: ...


ELASTIC_LAYERS: dict[type, Callable[[Sequence[Any]], nn.Module]] = {
    SqueezeExcite: ElasticSqueezeExcite,
    GlobalPool: ElasticPool,
    MaxPool: ElasticPool,
    AveragePool: ElasticPool,
    Linear: ElasticLinear,
}


def elastic_layer(name: str, versions: Sequence[Layer], kernel_transform: bool = False) -> nn.Module:
    """One layer that every version can be cut from; see `ElasticConv` for `kernel_transform`.

    SpaceError if the versions differ in more than channels and kernel: weights shared by different
    functions would serve neither.
    """
    fixed = ("activation", "norm", "eps", "bias", "stride", "depthwise", "window")
    functions = {(type(v).__name__, *(getattr(v, field, None) for field in fixed)) for v in versions}
    if len(functions) != 1:
        raise SpaceError(
            f"{name} differs in more than size between architectures: {sorted(map(str, functions))}"
        )
    if isinstance(versions[0], Conv):
        return ElasticConv(cast(Sequence[Conv], versions), kernel_transform)
    return ELASTIC_LAYERS[type(versions[0])](versions)
