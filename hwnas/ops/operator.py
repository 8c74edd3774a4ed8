"""Operators: the entries of a latency table.

An **op** is a primitive (convolution, squeeze-and-excite, pooling, linear). An **operator** is a unit as the
runtime executes it inside a network: a stem, a whole MBConv or bottleneck block, a head. Its *block*, a
function from the operator to a graph of ops, describes it once. Static modules, elastic modules, ONNX graphs,
MACs and parameters are derived from that graph, so they cannot disagree.

Blocks of hwnas have names, see `hwnas.ops.blocks.BLOCKS`. A block of your own is a function, given to
`Operator` in place of a name; `examples/own_space.py` defines one. Everything that the block depends on must
be in the operator's shapes and attributes, which are its key. The sums of a block must not depend on the
architecture.

Conventions: shapes are channels-first without the batch, such as (channels, height, width). MACs are
multiply-accumulates of convolutions and linear layers (squeeze-and-excite's included) for one input;
normalisation, activations, pooling and additions are not counted. Parameters are trainable: weights, biases,
and the scale and shift of batch norm. Bytes are those of shipped models, where batch norm is folded into
convolutions, for one input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from hwnas.errors import SpaceError, known_names
from hwnas.ops.add import Add
from hwnas.ops.base import Op, Shape, TensorSpec
from hwnas.ops.blocks import BLOCKS
from hwnas.ops.conv import NORM_EPS, Conv
from hwnas.ops.graph import Graph, Node

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # bytes of a weight or an activation
BIAS_BYTES = {**VALUE_BYTES, "int8": 4}  # bytes of an element of a weight with one axis

Block = Callable[["Operator"], Graph]

# Blocks of users by kind, as their operators are made, so that the key of an operator can be parsed.
_own_blocks: dict[str, Block] = {}


@dataclass(frozen=True, init=False)
class Operator:
    """One entry of a latency table: a fused unit as the runtime executes it inside a network.

    Attributes:
        kind: Name of a block of hwnas, or a block of your own, whose name is then the kind.
        in_shape: Shape of the first input, (channels, height, width).
        out_shape: Shape of the output, (channels, height, width), or (features,) after a head.
        attributes: Integers and names that, with the shapes, determine the block.
        precision: One of `PRECISIONS`.
        norm_eps: Added to the variance by batch norms. It is used in training alone: a runtime sees batch
            norms folded into convolutions. So it is neither part of the key nor compared.
    """

    kind: str
    in_shape: Shape
    out_shape: Shape
    attributes: tuple[tuple[str, int | str], ...]
    precision: str = "fp32"
    norm_eps: float = field(default=NORM_EPS, compare=False)

    def __init__(
        self,
        kind: str | Block,
        in_shape: Shape,
        out_shape: Shape,
        attributes: tuple[tuple[str, int | str], ...],
        precision: str = "fp32",
        norm_eps: float = NORM_EPS,
    ) -> None:
        """See the attributes of the class.

        Raises:
            SpaceError: For a block of your own that has the name of one of hwnas or of another one.
        """
        values = (_kind_of(kind), in_shape, out_shape, attributes, precision, norm_eps)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)

    def __getitem__(self, attribute: str) -> int | str:
        return dict(self.attributes)[attribute]

    def integer(self, attribute: str) -> int:
        """Return an attribute that is a number."""
        return int(dict(self.attributes)[attribute])

    @cached_property
    def graph(self) -> Graph:
        """The ops of the operator and their connections.

        Raises:
            SpaceError: For an unknown kind.
        """
        block = BLOCKS.get(self.kind) or _own_blocks.get(self.kind)
        if block is None:
            raise SpaceError(
                f"unknown kind of operator {self.kind!r}; {known_names(self.kind, BLOCKS)}; a block of your "
                "own is a function, given as Operator(function, …)"
            )
        graph = block(self)
        if self.norm_eps == NORM_EPS:
            return graph
        return Graph(graph.inputs, tuple(Node(self._with_eps(n.op), n.inputs) for n in graph.nodes))

    def _with_eps(self, op: Op) -> Op:
        return replace(op, eps=self.norm_eps) if isinstance(op, Conv) else op

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops in the order in which they run."""
        return self.graph.ops

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Shape and data type of each input."""
        return tuple(self.graph.inputs.values())

    @property
    def residual(self) -> bool:
        """Whether the operator adds its input, or a function of it, to the output of a branch."""
        return any(isinstance(op, Add) for op in self.ops)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        return sum(node.op.macs(*self.graph.inputs_of(node)) for node in self.graph.nodes)

    @cached_property
    def params(self) -> int:
        """Number of trainable parameters."""
        return sum(op.params for op in self.ops)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases as they are shipped; in 8 bits without the scales."""
        value, bias = VALUE_BYTES[self.precision], BIAS_BYTES[self.precision]
        shapes = [shape for op in self.ops for shape in op.shipped().values()]
        return sum(TensorSpec(shape).size * (value if len(shape) > 1 else bias) for shape in shapes)

    @cached_property
    def activation_bytes(self) -> int:
        """Largest number of bytes of activations that are held at once; see `Graph.peak_bytes`."""
        return self.graph.peak_bytes(VALUE_BYTES[self.precision])

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
        """Return the operator of a key.

        Args:
            key: The `key` of an operator. Its kind is one of hwnas, or one of your own of which this process
                has made an operator before.

        Returns:
            The operator.

        Raises:
            SpaceError: If the text is not the key of a known kind.
        """
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
            shape = operator.graph.output.shape
        except (SpaceError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise SpaceError(f"not the key of an operator: {key!r} ({error})") from None
        if operator.key != key or shape != operator.out_shape or precision not in PRECISIONS:
            raise SpaceError(f"not the key of an operator: {key!r} (its ops give {shape})")
        return operator


def _kind_of(kind: str | Block) -> str:
    """Return the name of a block, and remember a block of a user by it."""
    if isinstance(kind, str):
        return kind
    name = kind.__name__
    if not name.isidentifier():
        raise SpaceError(f"a block is a function with a name of its own, got {name!r}")
    known = BLOCKS.get(name, _own_blocks.get(name, kind))
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise SpaceError(
            f"{name!r} is already a kind of operator, {known.__module__}.{known.__qualname__}; rename your "
            "function"
        )
    _own_blocks[name] = kind
    return name


def _shape_text(shape: Shape) -> str:
    return "x".join(str(s) for s in (*shape[1:], shape[0]))


def _shape_of(text: str) -> Shape:
    *size, channels = (int(part) for part in text.split("x"))
    return (channels, *size)
