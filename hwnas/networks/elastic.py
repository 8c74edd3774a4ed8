"""Elastic layers: the largest weights of a layer, shared by every smaller version of it.

A smaller layer uses the first channels and the centre of the kernel (https://arxiv.org/abs/2003.11142).
`sliced(layer)` says which parts, under the names that the static block gives them; the forward pass and
`Supernet.extract` both take them from there, so they cannot differ. Which version is wanted is an
argument, and so is the way to normalise: no layer holds any active state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.errors import SpaceError
from hwnas.networks.blocks import ACTIVATION_FUNCTIONS, NORM_EPS
from hwnas.spaces.operators import Conv, GlobalPool, Layer, Linear, SqueezeExcite

# Batch-norm statistics, (c,) mean and variance, by "slot.layer".
Moments = Mapping[str, tuple[Tensor, Tensor]]
# From a convolution's name "slot.layer", its batch norm and its output (n, c, h, w) to the normalised output.
Normalise = Callable[[str, "ElasticNorm", Tensor], Tensor]


class ElasticNorm(nn.Module):
    """Batch norm of up to `channels`. The stored statistics are the largest layer's."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
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
        return F.batch_norm(x, mean, var, self.weight[:c], self.bias[:c], batch, momentum, NORM_EPS)


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
    """Convolution, batch norm and activation of up to the largest channels and kernel."""

    def __init__(self, layers: Sequence[Conv]) -> None:
        super().__init__()
        first = layers[0]
        out, _, kernel, _ = (
            max(sizes) for sizes in zip(*(layer.weight_shape for layer in layers), strict=True)
        )
        channels = max(layer.in_channels for layer in layers)
        groups = channels if first.depthwise else 1
        self.activation = first.activation
        self.conv = nn.Conv2d(channels, out, kernel, groups=groups, bias=first.bias)
        self.norm = ElasticNorm(out) if first.norm else None

    def kernel(self, size: int) -> Tensor:
        """The weight with its kernel cut down to the centre, (out, in, size, size)."""
        weight = self.conv.weight
        start = (weight.shape[2] - size) // 2
        return weight[:, :, start : start + size, start : start + size]

    def sliced(self, layer: Conv) -> dict[str, Tensor]:
        """The part that `layer` uses, by the names in its static block's state dict."""
        out, per_group, k, _ = layer.weight_shape
        parts = {"conv.weight": self.kernel(k)[:out, :per_group]}
        if self.conv.bias is not None:
            parts["conv.bias"] = self.conv.bias[:out]
        if self.norm is not None:
            for name, tensor in self.norm.state_dict(keep_vars=True).items():
                parts[f"norm.{name}"] = tensor[:out]
        return parts

    def forward(self, x: Tensor, layer: Conv, name: str, normalise: Normalise) -> Tensor:
        out, per_group, k, _ = layer.weight_shape
        weight = self.kernel(k)[:out, :per_group]
        bias = None if self.conv.bias is None else self.conv.bias[:out]
        groups = layer.in_channels if layer.depthwise else 1
        x = F.conv2d(x, weight, bias, layer.stride, k // 2, groups=groups)
        if self.norm is not None:
            x = normalise(name, self.norm, x)
        return ACTIVATION_FUNCTIONS[layer.activation](x)


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
    """Mean over height and width."""

    def __init__(self, layers: Sequence[GlobalPool]) -> None:
        super().__init__()

    def sliced(self, layer: GlobalPool) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def forward(self, x: Tensor, layer: GlobalPool, name: str, normalise: Normalise) -> Tensor:
        return x.mean((2, 3), keepdim=True)


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
    Conv: ElasticConv,
    SqueezeExcite: ElasticSqueezeExcite,
    GlobalPool: ElasticPool,
    Linear: ElasticLinear,
}


def elastic_layer(name: str, versions: Sequence[Layer]) -> nn.Module:
    """One layer that every version can be cut from.

    SpaceError if the versions differ in more than channels and kernel: weights shared by different
    functions would serve neither.
    """
    fixed = ("activation", "norm", "bias", "stride", "depthwise")
    functions = {(type(v).__name__, *(getattr(v, field, None) for field in fixed)) for v in versions}
    if len(functions) != 1:
        raise SpaceError(
            f"{name} differs in more than size between architectures: {sorted(map(str, functions))}"
        )
    return ELASTIC_LAYERS[type(versions[0])](versions)
