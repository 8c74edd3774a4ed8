"""Operators: the fused units that a latency table has entries for, and the layers inside them.

A **layer** is a primitive (convolution, squeeze-and-excite, pooling, linear). An **operator** is a unit as
the runtime executes it inside a network: a stem, a whole MBConv block, a head. `KINDS` says which layers
each kind of operator is made of, in order. This one description is all that the static blocks, the elastic
blocks, the ONNX graphs, MACs and parameters are derived from, so they cannot disagree.

Conventions: shapes are channels-first without the batch, (channels, height, width). MACs are
multiply-accumulates of convolutions and linear layers (squeeze-and-excite's included) for one input;
normalisation, activations, pooling and additions are not counted. Parameters are trainable ones: weights,
biases, and the scale and shift of batch norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from hwnas.errors import SpaceError

ACTIVATIONS = ("identity", "relu", "relu6", "hswish")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
SQUEEZE_RATIO = 4


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels` that is not more than 10 % below it.

    Source: MobileNetV2's reference implementation, https://arxiv.org/abs/1801.04381.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Conv:
    """Convolution with "same" padding for odd kernels, optional bias, batch norm and activation."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    norm: bool = True
    bias: bool = False
    activation: str = "identity"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out, in per group, k, k)."""
        return (self.out_channels, 1 if self.depthwise else self.in_channels, self.kernel, self.kernel)

    @property
    def params(self) -> int:
        out, per_group, k, _ = self.weight_shape
        return out * per_group * k * k + (2 * out if self.norm else 0) + (out if self.bias else 0)

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        size = [(s + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1 for s in shape[1:]]
        return (self.out_channels, *size)

    def macs(self, shape: tuple[int, ...]) -> int:
        _, height, width = self.out_shape(shape)
        out, per_group, k, _ = self.weight_shape
        return out * per_group * k * k * height * width


@dataclass(frozen=True)
class SqueezeExcite:
    """x · hard-sigmoid(expand(relu(reduce(mean(x))))), both 1×1 with bias. https://arxiv.org/abs/1709.01507"""

    name: str
    channels: int
    reduced: int

    @property
    def params(self) -> int:
        return 2 * self.channels * self.reduced + self.channels + self.reduced

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def macs(self, shape: tuple[int, ...]) -> int:
        return 2 * self.channels * self.reduced


@dataclass(frozen=True)
class GlobalPool:
    """Mean over height and width, which stay as 1×1."""

    name: str
    params: int = 0

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], 1, 1)

    def macs(self, shape: tuple[int, ...]) -> int:
        return 0


@dataclass(frozen=True)
class Linear:
    """Fully connected layer with bias on a flattened (channels, 1, 1)."""

    name: str
    in_features: int
    out_features: int

    @property
    def params(self) -> int:
        return self.in_features * self.out_features + self.out_features

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.out_features,)

    def macs(self, shape: tuple[int, ...]) -> int:
        return self.in_features * self.out_features


Layer = Conv | SqueezeExcite | GlobalPool | Linear


@dataclass(frozen=True)
class Operator:
    """One entry of a latency table: a fused unit as the runtime executes it inside a network.

    `in_shape` and `out_shape` are (channels, height, width), or (features,) after a head. `attributes`
    are the integers and names that, with the shapes, say all about it; see `KINDS`.
    """

    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    attributes: tuple[tuple[str, int | str], ...]
    precision: str = "fp32"

    def __getitem__(self, attribute: str) -> int | str:
        return dict(self.attributes)[attribute]

    def integer(self, attribute: str) -> int:
        """An attribute that is a number."""
        return int(dict(self.attributes)[attribute])

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order in which they are applied."""
        if self.kind not in KINDS:
            raise SpaceError(f"unknown kind of operator {self.kind!r}; known: {', '.join(KINDS)}")
        return KINDS[self.kind](self)

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output of the last layer."""
        return bool(dict(self.attributes).get("res", 0))

    @cached_property
    def macs(self) -> int:
        shape, total = self.in_shape, 0
        for layer in self.layers:
            total += layer.macs(shape)
            shape = layer.out_shape(shape)
        return total

    @cached_property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @cached_property
    def key(self) -> str:
        """Canonical text of the operator, such as ``mbconv-in:64x64x16-out:32x32x24-mid:64-k:3-…-p:fp32``.

        Shapes are written height × width × channels, as in the tables of ProxylessNAS and Once-for-All.
        """
        fields = [f"in:{_shape_text(self.in_shape)}", f"out:{_shape_text(self.out_shape)}"]
        fields += [f"{name}:{value}" for name, value in self.attributes]
        return "-".join([self.kind, *fields, f"p:{self.precision}"])

    @classmethod
    def parse(cls, key: str) -> Operator:
        """The operator that a key stands for; SpaceError if it is not the key of a known kind."""
        kind, *fields = key.split("-")
        try:
            pairs = [field.split(":") for field in fields]
            (i, in_shape), (o, out_shape), *attributes, (p, precision) = [(k, v) for k, v in pairs]
            if (i, o, p) != ("in", "out", "p"):
                raise ValueError("fields out of order")
            operator = cls(
                kind,
                _shape_of(in_shape),
                _shape_of(out_shape),
                tuple((name, int(value) if value.isdigit() else value) for name, value in attributes),
                precision,
            )
            shape = operator.in_shape
            for layer in operator.layers:
                shape = layer.out_shape(shape)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise SpaceError(f"not the key of an operator: {key!r} ({error})") from None
        if operator.key != key or shape != operator.out_shape or precision not in PRECISIONS:
            raise SpaceError(f"not the key of an operator: {key!r} (its layers give {shape})")
        return operator


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(s) for s in (*shape[1:], shape[0]))


def _shape_of(text: str) -> tuple[int, ...]:
    *size, channels = (int(part) for part in text.split("x"))
    return (channels, *size)


def _conv(op: Operator) -> tuple[Layer, ...]:
    """conv: one convolution, batch norm, activation. Attributes k, s, act."""
    act = str(op["act"])
    return (Conv("conv", op.in_shape[0], op.out_shape[0], op.integer("k"), op.integer("s"), activation=act),)


def _separable_tail(op: Operator, mid: int) -> tuple[Layer, ...]:
    """Depthwise convolution, squeeze-and-excite, linear projection."""
    layers: list[Layer] = [
        Conv(
            "depthwise", mid, mid, op.integer("k"), op.integer("s"), depthwise=True, activation=str(op["act"])
        )
    ]
    if op["se"]:
        layers.append(SqueezeExcite("se", mid, make_divisible(mid // SQUEEZE_RATIO)))
    return (*layers, Conv("project", mid, op.out_shape[0]))


def _mbconv(op: Operator) -> tuple[Layer, ...]:
    """mbconv: inverted bottleneck, https://arxiv.org/abs/1905.02244. Attributes mid, k, s, act, se, res."""
    mid = op.integer("mid")
    return (Conv("expand", op.in_shape[0], mid, activation=str(op["act"])), *_separable_tail(op, mid))


def _dsconv(op: Operator) -> tuple[Layer, ...]:
    """dsconv: an MBConv that does not expand. Attributes k, s, act, se, res."""
    return _separable_tail(op, op.in_shape[0])


def _fused(op: Operator) -> tuple[Layer, ...]:
    """fused: fused MBConv, dense k×k then 1×1, https://arxiv.org/abs/2104.00298. Attributes as mbconv."""
    mid = op.integer("mid")
    layers: list[Layer] = [
        Conv("expand", op.in_shape[0], mid, op.integer("k"), op.integer("s"), activation=str(op["act"]))
    ]
    if op["se"]:
        layers.append(SqueezeExcite("se", mid, make_divisible(mid // SQUEEZE_RATIO)))
    return (*layers, Conv("project", mid, op.out_shape[0]))


def _head(op: Operator) -> tuple[Layer, ...]:
    """head: 1×1 convolution to `mid`, mean, 1×1 convolution to `feat` (0: none), linear. MobileNetV3's."""
    act, mid, feat = str(op["act"]), op.integer("mid"), op.integer("feat")
    layers: list[Layer] = [Conv("expand", op.in_shape[0], mid, activation=act), GlobalPool("pool")]
    if feat:
        layers.append(Conv("mix", mid, feat, norm=False, activation=act))
    return (*layers, Linear("classifier", feat or mid, op.out_shape[0]))


KINDS: dict[str, Callable[[Operator], tuple[Layer, ...]]] = {
    "conv": _conv,
    "mbconv": _mbconv,
    "dsconv": _dsconv,
    "fused": _fused,
    "head": _head,
}
