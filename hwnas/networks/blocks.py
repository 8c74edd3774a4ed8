"""The static block of every kind of operator, and networks made of them.

An operator is a list of layers; `LAYERS` says which module each type of layer becomes. Blocks are plain
modules with fixed shapes: what `Supernet.extract` fills, what users deploy, and what the ONNX graphs are
checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.spaces import Architecture, NetworkSpace, Operator
from hwnas.spaces.base import Rng
from hwnas.spaces.operators import AveragePool, Conv, GlobalPool, Layer, Linear, MaxPool, Pool, SqueezeExcite

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
}


class ConvBlock(nn.Module):
    """Convolution, batch norm where the layer has one, activation. (n, c, h, w) to (n, out, h', w')."""

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.kernel // 2,
            groups=layer.in_channels if layer.depthwise else 1,
            bias=layer.bias,
        )
        self.norm = nn.BatchNorm2d(layer.out_channels, eps=layer.eps) if layer.norm else None
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return ACTIVATION_FUNCTIONS[self.activation](x)

    def folded(self) -> dict[str, Tensor]:
        """The weight and bias of the one convolution that equals convolution and batch norm in eval mode."""
        weight = self.conv.weight.double()
        zero = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        bias = zero if self.conv.bias is None else self.conv.bias.double()
        if self.norm is not None:
            mean, var = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
            scale = self.norm.weight.double() / torch.sqrt(var.double() + self.norm.eps)
            weight = weight * scale[:, None, None, None]
            bias = (bias - mean.double()) * scale + self.norm.bias.double()
        return {"weight": weight, "bias": bias}

    @torch.no_grad()
    def unfold(self, weights: Mapping[str, Tensor]) -> None:
        """Take a folded weight and bias; batch norm, where the layer has one, only adds the bias."""
        self.conv.weight.copy_(weights["weight"])
        if self.norm is None:
            self.conv.bias = nn.Parameter(weights["bias"])
            return
        if self.conv.bias is not None:
            self.conv.bias.zero_()
        self.norm.weight.fill_(1.0)
        self.norm.bias.copy_(weights["bias"])
        cast(Tensor, self.norm.running_mean).zero_()
        cast(Tensor, self.norm.running_var).fill_(1.0 - self.norm.eps)


class SqueezeExciteBlock(nn.Module):
    """Channel attention, (n, c, h, w) to the same shape; hard-sigmoid is relu6(x + 3) / 6."""

    def __init__(self, layer: SqueezeExcite) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(layer.channels, layer.reduced, 1)
        self.expand = nn.Conv2d(layer.reduced, layer.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(pooled))))

    def folded(self) -> dict[str, Tensor]:
        """Weights and biases as they are."""
        return self.state_dict()


def pooled(layer: Pool, x: Tensor) -> Tensor:
    """Pooling, (n, c, h, w) to (n, c, h', w')."""
    match layer:
        case GlobalPool():
            return x.mean((2, 3), keepdim=True)
        case MaxPool():
            return F.max_pool2d(x, layer.window, layer.stride, layer.window // 2)
        case AveragePool():
            return F.avg_pool2d(x, layer.window, ceil_mode=True)


class PoolBlock(nn.Module):
    """Pooling, (n, c, h, w) to (n, c, h', w')."""

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.layer, x)

    def folded(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class LinearBlock(nn.Linear):
    """Fully connected layer, (n, c, 1, 1) to (n, out)."""

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer.in_features, layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))

    def folded(self) -> dict[str, Tensor]:
        """Weight and bias as they are."""
        return self.state_dict()


Block = ConvBlock | SqueezeExciteBlock | PoolBlock | LinearBlock

LAYERS: dict[type, Callable[[Any], Block]] = {
    Conv: ConvBlock,
    SqueezeExcite: SqueezeExciteBlock,
    GlobalPool: PoolBlock,
    MaxPool: PoolBlock,
    AveragePool: PoolBlock,
    Linear: LinearBlock,
}


class OperatorBlock(nn.Module):
    """The layers of an operator, each a submodule of the layer's name, joined as its body says."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.body = operator.body
        for layer in self.body.layers:
            self.add_module(layer.name, LAYERS[type(layer)](layer))

    def forward(self, x: Tensor) -> Tensor:
        out = self._chain(self.body.path, x)
        if self.body.shortcut is not None:
            out = out + self._chain(self.body.shortcut, x)
        return ACTIVATION_FUNCTIONS[self.body.activation](out)

    def _chain(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        for layer in layers:
            x = self.get_submodule(layer.name)(x)
        return x


def build_operator(operator: Operator) -> OperatorBlock:
    """The static block of an operator, with torch's initial weights."""
    return OperatorBlock(operator)


class StaticNetwork(nn.Module):
    """One architecture as a plain network in single precision: a chain of operators' blocks.

    `operators` says what it is made of, `blocks` holds one module for each.
    """

    def __init__(self, operators: Iterable[Operator]) -> None:
        super().__init__()
        self.operators = tuple(replace(operator, precision="fp32") for operator in operators)
        with torch.random.fork_rng(devices=[]):  # torch draws weights by its global generator
            self.blocks = nn.ModuleList(build_operator(operator) for operator in self.operators)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) that the architecture asks for; other sizes are accepted."""
        return self.operators[0].in_shape

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, classes), of images (batch, channels, height, width)."""
        for block in self.blocks:
            x = block(x)
        return x


def build_network(space: NetworkSpace, arch: Architecture, rng: Rng = 0) -> StaticNetwork:
    """An architecture as a plain network in eval mode, untrained, with He-scale weights drawn by `rng`.

    SpaceError if the architecture is not one of this space.
    """
    network = StaticNetwork(space.operators(arch))
    generator = torch_generator(rng)
    for block in network.blocks:
        for module in block.children():
            initialise(module, generator)
    return network.eval()


def folded_weights(network: StaticNetwork) -> list[dict[str, NDArray[np.float32]]]:
    """The weights of a network in eval mode with batch norm folded into convolutions, a dict an operator.

    Names: ``<layer>.weight`` and ``<layer>.bias`` of convolutions, (out, in per group, k, k) and (out,),
    and of linear layers, (out, in) and (out,); ``<layer>.reduce.weight`` … ``<layer>.expand.bias`` of
    squeeze-and-excite.
    """
    return [
        {
            f"{layer}.{name}": tensor.detach().to("cpu", torch.float32).contiguous().numpy().copy()
            for layer, module in block.named_children()
            for name, tensor in cast(Block, module).folded().items()
        }
        for block in network.blocks
    ]


def unfolded_network(
    operators: Sequence[Operator], weights: Sequence[Mapping[str, NDArray[np.float32]]]
) -> StaticNetwork:
    """The network in eval mode that has these folded weights, one mapping an operator; see `folded_weights`.

    Batch norms are there, as in any static network, and change nothing but by their bias.
    """
    network = StaticNetwork(operators).eval()
    for block, given in zip(network.blocks, weights, strict=True):
        for layer, module in block.named_children():
            own = {
                name.removeprefix(f"{layer}."): torch.from_numpy(array.copy())
                for name, array in given.items()
                if name.startswith(f"{layer}.")
            }
            if isinstance(module, ConvBlock):
                module.unfold(own)
            else:
                module.load_state_dict(own)
    return network


# ---- drawing weights ------------------------------------------------------------------------------


def torch_generator(rng: Rng) -> torch.Generator:
    """A local torch generator, seeded from an integer or by a draw from a numpy generator."""
    return torch.Generator().manual_seed(int(np.random.default_rng(rng).integers(2**63)))


@torch.no_grad()
def initialise(layer: nn.Module, generator: torch.Generator) -> None:
    """Normal weights of a layer that keep the variance of its input, and zero biases, in place.

    Source: https://arxiv.org/abs/1502.01852. Batch norm is left as it is made, changing nothing.
    """
    gain = 1.0 if getattr(layer, "activation", "identity") == "identity" else 2.0
    for name, parameter in layer.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            parameter.normal_(0.0, (gain / parameter[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
