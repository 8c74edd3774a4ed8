"""An operator's computation: a small graph of ops with named values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hwnas.errors import SpaceError
from hwnas.ops.activation import Activation
from hwnas.ops.add import Add
from hwnas.ops.base import Op, Shape, TensorSpec

INPUT = "x"  # name of the input of a graph that has one


@dataclass(frozen=True)
class Node:
    """One op of a graph and the names of its inputs: inputs of the graph, or earlier ops."""

    op: Op
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Ops in the order in which they run. Each op names its output, and the last one gives the result.

    Attributes:
        inputs: Shape and data type of each input by name, in order.
        nodes: The ops and their inputs.
    """

    inputs: Mapping[str, TensorSpec]
    nodes: tuple[Node, ...]
    _outputs: dict[str, TensorSpec] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the names, and compute the shape of each value.

        Raises:
            SpaceError: If a name is used twice, or an input is neither one of the graph nor an earlier op.
        """
        names = [*self.inputs, *(node.op.name for node in self.nodes)]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated or not self.nodes or not self.inputs:
            raise SpaceError(
                f"a graph has inputs and ops of different names, got {', '.join(names) or 'none'}"
            )
        values = dict(self.inputs)
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in values]
            if missing:
                raise SpaceError(f"op {node.op.name!r} reads {missing[0]!r}, which no earlier op gives")
            values[node.op.name] = node.op.output(*(values[name] for name in node.inputs))
        object.__setattr__(self, "_outputs", values)

    @classmethod
    def chain(cls, shape: Shape, ops: Sequence[Op]) -> Graph:
        """Connect ops one after another.

        Args:
            shape: Shape of the input, without the batch axis.
            ops: At least one op of one input each.

        Returns:
            The graph.
        """
        return cls({INPUT: TensorSpec(shape)}, _chained(ops, INPUT))

    @classmethod
    def residual(
        cls, shape: Shape, path: Sequence[Op], shortcut: Sequence[Op] = (), activation: str = "identity"
    ) -> Graph:
        """Connect ops to activation(path(x) + shortcut(x)).

        Args:
            shape: Shape of the input x, without the batch axis.
            path: The ops of the branch, one after another.
            shortcut: The ops of the shortcut, one after another; without any it is x itself.
            activation: Name of the activation function after the sum.

        Returns:
            The graph, whose sum is the op "residual".
        """
        nodes = [*_chained(path, INPUT), *_chained(shortcut, INPUT)]
        ends = (path[-1].name, shortcut[-1].name if shortcut else INPUT)
        nodes.append(Node(Add("residual"), ends))
        if activation != "identity":
            nodes.append(Node(Activation(activation, activation), ("residual",)))
        return cls({INPUT: TensorSpec(shape)}, tuple(nodes))

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops in the order in which they run."""
        return tuple(node.op for node in self.nodes)

    @property
    def output(self) -> TensorSpec:
        """Shape and data type of the result."""
        return self._outputs[self.nodes[-1].op.name]

    def value(self, name: str) -> TensorSpec:
        """Shape and data type of a value, by the name of an input or an op."""
        return self._outputs[name]

    def inputs_of(self, node: Node) -> tuple[TensorSpec, ...]:
        """Shape and data type of each input of a node."""
        return tuple(self._outputs[name] for name in node.inputs)

    @cached_property
    def structure(self) -> tuple[object, ...]:
        """The connections of the sums and activations after them, which versions in one slot must share."""
        return tuple(
            (node.op.name, node.inputs) for node in self.nodes if isinstance(node.op, (Add, Activation))
        )

    def peak_bytes(self, float_bytes: int, kept: Collection[str] = ()) -> int:
        """Largest number of bytes of values that are held at once.

        Ops run one after another. A value is held until its last use, and an op that computes value by value
        writes its output in place of its first input.

        Args:
            float_bytes: Bytes of an element of a float32 value in the operator's precision.
            kept: Names of inputs that are held to the end, because operators after this one read them.

        Returns:
            The number of bytes for one input.
        """
        last_use = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        last_use |= dict.fromkeys(kept, len(self.nodes))
        held = {name: spec.bytes(float_bytes) for name, spec in self.inputs.items()}
        peak = 0
        for i, node in enumerate(self.nodes):
            size = self._outputs[node.op.name].bytes(float_bytes)
            in_place = node.op.in_place and last_use[node.inputs[0]] == i
            peak = max(peak, sum(held.values()) + (0 if in_place else size))
            held[node.op.name] = size
            held = {name: n for name, n in held.items() if last_use.get(name, -1) > i}
        return peak


def _chained(ops: Sequence[Op], value: str) -> tuple[Node, ...]:
    """Ops one after another, the first of which reads `value`."""
    names = [value, *(op.name for op in ops)]
    return tuple(Node(op, (name,)) for op, name in zip(ops, names[:-1], strict=True))
