"""Operators: the fused units that a latency table has entries for, and the layers inside them.

A **layer** is a primitive (convolution, squeeze-and-excite, pooling, linear). An **operator** is a unit as
the runtime executes it inside a network: a stem, a whole MBConv or bottleneck block, a head. `KINDS` says
which layers each kind of operator is made of, in order. This one description is all that the static blocks,
the elastic blocks, the ONNX graphs, MACs and parameters are derived from, so they cannot disagree.

A kind of your own is a function from an operator to its `Body`, and an entry: ``KINDS["mine"] = mine``, made
where your space is defined, so that worker processes have it as well. Its layers may be `Conv`,
`SqueezeExcite`, `GlobalPool`, `MaxPool`, `AveragePool` and `Linear`, each with a name that no other layer of
the kind has; layers of one name share their weights among all versions in a slot. All that they depend on are
the operator's shapes and attributes, whole numbers and words, which are its key. Whether there is a shortcut
must not depend on the architecture. `examples/own_space.py` defines one.

Conventions: shapes are channels-first without the batch, (channels, height, width). MACs are
multiply-accumulates of convolutions and linear layers (squeeze-and-excite's included) for one input;
normalisation, activations, pooling and additions are not counted. Parameters are trainable ones: weights,
biases, and the scale and shift of batch norm. Bytes are those of what is shipped, where batch norm is part of
the convolution's weights and bias, for one input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from hwnas.errors import SpaceError, known_names

ACTIVATIONS = ("identity", "relu", "relu6", "hswish")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of a weight or an activation
BIAS_BYTES = {**VALUE_BYTES, "int8": 4}
SQUEEZE_RATIO = 4
NORM_EPS = 1e-5


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels` that is not more than 10 % below it.

    Source: MobileNetV2's reference implementation, https://arxiv.org/abs/1801.04381.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Conv:
    """Convolution with "same" padding for odd kernels, optional bias, batch norm and activation.

    `eps` is what batch norm adds to the variance.
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

    @property
    def params(self) -> int:
        out, per_group, k, _ = self.weight_shape
        return out * per_group * k * k + (2 * out if self.norm else 0) + (out if self.bias else 0)

    @property
    def biases(self) -> int:
        """Of the shipped convolution, whose bias is batch norm's shift."""
        return self.out_channels

    @property
    def weights(self) -> int:
        return math.prod(self.weight_shape)

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
        return self.weights + self.biases

    @property
    def biases(self) -> int:
        return self.channels + self.reduced

    @property
    def weights(self) -> int:
        return 2 * self.channels * self.reduced

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
class MaxPool:
    """The largest of each `window` × `window`, an odd number, with "same" padding."""

    name: str
    window: int
    stride: int
    params: int = 0

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(-(-s // self.stride) for s in shape[1:]))

    def macs(self, shape: tuple[int, ...]) -> int:
        return 0


@dataclass(frozen=True)
class AveragePool:
    """The mean of each `window` × `window`, side by side; at the far edges, of what is left there."""

    name: str
    window: int
    params: int = 0

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(-(-s // self.window) for s in shape[1:]))

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
        return self.weights + self.biases

    @property
    def biases(self) -> int:
        return self.out_features

    @property
    def weights(self) -> int:
        return self.in_features * self.out_features

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.out_features,)

    def macs(self, shape: tuple[int, ...]) -> int:
        return self.in_features * self.out_features


Pool = GlobalPool | MaxPool | AveragePool
Layer = Conv | SqueezeExcite | Pool | Linear


@dataclass(frozen=True)
class Body:
    """What an operator computes of x: activation(path(x) + shortcut(x)), each a chain of layers.

    An empty shortcut is x itself; without one (None) there is no sum.
    """

    path: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] | None = None
    activation: str = "identity"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers: those of the path, then those of the shortcut."""
        return (*self.path, *(self.shortcut or ()))


@dataclass(frozen=True)
class Operator:
    """One entry of a latency table: a fused unit as the runtime executes it inside a network.

    `in_shape` and `out_shape` are (channels, height, width), or (features,) after a head. `attributes`
    are the integers and names that, with the shapes, say all about it; see `KINDS`. `norm_eps`, which its
    batch norms add to the variance, is for training alone: a runtime sees them folded into convolutions, so
    it is neither part of the key nor compared.
    """

    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    attributes: tuple[tuple[str, int | str], ...]
    precision: str = "fp32"
    norm_eps: float = field(default=NORM_EPS, compare=False)

    def __getitem__(self, attribute: str) -> int | str:
        return dict(self.attributes)[attribute]

    def integer(self, attribute: str) -> int:
        """An attribute that is a number."""
        return int(dict(self.attributes)[attribute])

    @cached_property
    def body(self) -> Body:
        """The layers and how they are joined; SpaceError for an unknown kind."""
        if self.kind not in KINDS:
            raise SpaceError(
                f"unknown kind of operator {self.kind!r}; {known_names(self.kind, KINDS)}; one of your own "
                "is an entry of hwnas.spaces.operators.KINDS"
            )
        body = KINDS[self.kind](self)
        shortcut = None if body.shortcut is None else self._with_eps(body.shortcut)
        return replace(body, path=self._with_eps(body.path), shortcut=shortcut)

    def _with_eps(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(replace(x, eps=self.norm_eps) if isinstance(x, Conv) else x for x in layers)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers; those of a shortcut come last."""
        return self.body.layers

    @property
    def residual(self) -> bool:
        """Whether the input, or what a shortcut makes of it, is added to the output of the path."""
        return self.body.shortcut is not None

    def shapes(self) -> Iterator[tuple[Layer, tuple[int, ...], tuple[int, ...]]]:
        """Each layer with the shapes of its input and its output."""
        for chain in (self.body.path, self.body.shortcut or ()):
            shape = self.in_shape
            for layer in chain:
                after = layer.out_shape(shape)
                yield layer, shape, after
                shape = after

    @cached_property
    def macs(self) -> int:
        return sum(layer.macs(shape) for layer, shape, _ in self.shapes())

    @cached_property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @cached_property
    def weight_bytes(self) -> int:
        """Of weights and biases as they are shipped; in 8 bits without the scales."""
        value, bias = VALUE_BYTES[self.precision], BIAS_BYTES[self.precision]
        layers = [layer for layer in self.layers if isinstance(layer, Conv | SqueezeExcite | Linear)]
        return sum(layer.weights * value + layer.biases * bias for layer in layers)

    @cached_property
    def activation_bytes(self) -> int:
        """The most that is held at once: a layer's input and output, and what waits for a sum.

        Layers run one after another, those of a shortcut last; what is computed value by value (activations,
        scaling by squeeze-and-excite, sums) is done in place.
        """
        entry, result = math.prod(self.in_shape) if self.residual else 0, math.prod(self.out_shape)
        first, *further = _held(self.body.path, self.in_shape)
        added = _held(self.body.shortcut or (), self.in_shape)
        most = max([first, *(held + entry for held in further), *(held + result for held in added)])
        return most * VALUE_BYTES[self.precision]

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
            pairs = [text.split(":") for text in fields]
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
            body = operator.body
            shape = _end(body.path, operator.in_shape)
            added = shape if body.shortcut is None else _end(body.shortcut, operator.in_shape)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise SpaceError(f"not the key of an operator: {key!r} ({error})") from None
        if operator.key != key or not shape == added == operator.out_shape or precision not in PRECISIONS:
            raise SpaceError(f"not the key of an operator: {key!r} (its layers give {shape})")
        return operator


def _end(layers: tuple[Layer, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    for layer in layers:
        shape = layer.out_shape(shape)
    return shape


def _held(layers: tuple[Layer, ...], shape: tuple[int, ...]) -> list[int]:
    """How many values each of a chain of layers reads and writes."""
    found = []
    for layer in layers:
        after = layer.out_shape(shape)
        found.append(math.prod(shape) + (0 if isinstance(layer, SqueezeExcite) else math.prod(after)))
        shape = after
    return found


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(s) for s in (*shape[1:], shape[0]))


def _shape_of(text: str) -> tuple[int, ...]:
    *size, channels = (int(part) for part in text.split("x"))
    return (channels, *size)


def _identity(op: Operator) -> tuple[Layer, ...] | None:
    """The shortcut of an operator that adds its input where its attribute `res` is 1."""
    return () if dict(op.attributes).get("res", 0) else None


def _conv(op: Operator) -> Body:
    """conv: one convolution, batch norm, activation. Attributes k, s, act; res:1 where the input is added."""
    act = str(op["act"])
    conv = Conv("conv", op.in_shape[0], op.out_shape[0], op.integer("k"), op.integer("s"), activation=act)
    return Body((conv,), _identity(op))


def _convpool(op: Operator) -> Body:
    """convpool: a conv of stride 1, then the largest of each 3×3 at stride 2. Attributes k, act."""
    act = str(op["act"])
    conv = Conv("conv", op.in_shape[0], op.out_shape[0], op.integer("k"), activation=act)
    return Body((conv, MaxPool("pool", 3, 2)))


def _separable_tail(op: Operator, mid: int) -> tuple[Layer, ...]:
    """Depthwise convolution, squeeze-and-excite, linear projection."""
    act, k, s = str(op["act"]), op.integer("k"), op.integer("s")
    depthwise = Conv("depthwise", mid, mid, k, s, depthwise=True, activation=act)
    return (depthwise, *_squeeze(op, mid), Conv("project", mid, op.out_shape[0]))


def _squeeze(op: Operator, mid: int) -> tuple[Layer, ...]:
    return (SqueezeExcite("se", mid, make_divisible(mid // SQUEEZE_RATIO)),) if op["se"] else ()


def _mbconv(op: Operator) -> Body:
    """mbconv: inverted bottleneck, https://arxiv.org/abs/1905.02244. Attributes mid, k, s, act, se, res."""
    mid = op.integer("mid")
    expand = Conv("expand", op.in_shape[0], mid, activation=str(op["act"]))
    return Body((expand, *_separable_tail(op, mid)), _identity(op))


def _dsconv(op: Operator) -> Body:
    """dsconv: an MBConv that does not expand. Attributes k, s, act, se, res."""
    return Body(_separable_tail(op, op.in_shape[0]), _identity(op))


def _fused(op: Operator) -> Body:
    """fused: fused MBConv, dense k×k then 1×1, https://arxiv.org/abs/2104.00298. Attributes as mbconv."""
    act, mid, k, s = str(op["act"]), op.integer("mid"), op.integer("k"), op.integer("s")
    expand = Conv("expand", op.in_shape[0], mid, k, s, activation=act)
    return Body((expand, *_squeeze(op, mid), Conv("project", mid, op.out_shape[0])), _identity(op))


def _basic(op: Operator) -> Body:
    """basic: two k×k and the sum, then activation, as in https://arxiv.org/abs/1512.03385.

    Attributes mid, k, act.
    """
    act, mid, k = str(op["act"]), op.integer("mid"), op.integer("k")
    path = (Conv("first", op.in_shape[0], mid, k, activation=act), Conv("second", mid, op.out_shape[0], k))
    return Body(path, (), act)


def _bottleneck(op: Operator) -> Body:
    """bottleneck: 1×1, k×k, 1×1, and the activation after the sum, https://arxiv.org/abs/1512.03385.

    Attributes mid, k, s, act, res. Where res is 0, what is added is the mean of each s×s of the input through
    a 1×1 convolution (ResNet-D, https://arxiv.org/abs/1812.01187).
    """
    act, mid, stride = str(op["act"]), op.integer("mid"), op.integer("s")
    channels, out = op.in_shape[0], op.out_shape[0]
    path = (
        Conv("reduce", channels, mid, activation=act),
        Conv("conv", mid, mid, op.integer("k"), stride, activation=act),
        Conv("expand", mid, out),
    )
    pool = (AveragePool("pool", stride),) if stride > 1 else ()
    downsample = (*pool, Conv("downsample", channels, out))
    return Body(path, () if op["res"] else downsample, act)


def _head(op: Operator) -> Body:
    """head: 1×1 convolution to `mid`, mean, 1×1 convolution to `feat` (0: none), linear. MobileNetV3's."""
    act, mid, feat = str(op["act"]), op.integer("mid"), op.integer("feat")
    layers: list[Layer] = [Conv("expand", op.in_shape[0], mid, activation=act), GlobalPool("pool")]
    if feat:
        layers.append(Conv("mix", mid, feat, norm=False, activation=act))
    return Body((*layers, Linear("classifier", feat or mid, op.out_shape[0])))


def _classifier(op: Operator) -> Body:
    """classifier: mean, linear. ResNet's head; no attributes."""
    return Body((GlobalPool("pool"), Linear("classifier", op.in_shape[0], op.out_shape[0])))


KINDS: dict[str, Callable[[Operator], Body]] = {
    "conv": _conv,
    "convpool": _convpool,
    "mbconv": _mbconv,
    "dsconv": _dsconv,
    "fused": _fused,
    "basic": _basic,
    "bottleneck": _bottleneck,
    "head": _head,
    "classifier": _classifier,
}
