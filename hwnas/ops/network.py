"""A network: a graph of operators with declared inputs. The common case is a chain over one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.ops.base import Shape, TensorSpec
from hwnas.ops.operator import VALUE_BYTES, Operator

INPUT = "input"  # name of the input of a chain
DEFAULT_HIGH = 2  # exclusive upper limit of integers whose range is not declared

Value = TypeVar("Value")
Source = str | int  # the name of an input of the network, or the position of an earlier operator


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: Name of the input, in torch and in ONNX.
        shape: Shape without the batch axis.
        dtype: Data type by its NumPy name: floats, integers or "bool".
        high: Exclusive upper limit of integers, which begin at 0. None stands for 2.
    """

    name: str
    shape: Shape
    dtype: str = "float32"
    high: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SpaceError: If the data type is no number, or the upper limit is below 1 or not of integers.
        """
        try:
            kind: str = np.dtype(self.dtype).kind
        except TypeError:
            kind = "unknown"
        if kind not in ("f", "i", "u", "b"):
            raise SpaceError(
                f"input {self.name!r} has data type {self.dtype!r}; give a number of NumPy, such as float32 "
                "or int64"
            )
        if self.high is not None and (kind not in "iu" or self.high < 1):
            raise SpaceError(
                f"input {self.name!r} of {self.dtype} has the upper limit {self.high}; give one to integers "
                "only, and at least 1"
            )

    @property
    def is_image(self) -> bool:
        """Whether the input is float32 of shape (channels, height, width)."""
        return self.dtype == "float32" and len(self.shape) == 3


def random_inputs(
    inputs: Sequence[InputSpec], batch_size: int, rng: int | np.random.Generator = 0
) -> dict[str, NDArray[Any]]:
    """Return random inputs; by default those that networks are timed and checked on.

    Args:
        inputs: The inputs of a network.
        batch_size: Number of samples n.
        rng: Source of the values, or its seed.

    Returns:
        Arrays (n, …) by name: floats from the normal distribution, integers uniform in their range.
    """
    generator = np.random.default_rng(rng)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape, dtype = (batch_size, *spec.shape), np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
        else:
            arrays[spec.name] = generator.integers(0, spec.high or DEFAULT_HIGH, shape).astype(dtype)
    return arrays


@dataclass(frozen=True)
class Network:
    """Operators in the order in which they run. The last one gives the result.

    Attributes:
        inputs: The inputs in order.
        operators: At least one operator.
        connections: For each operator the sources of its inputs: names of inputs of the network, or
            positions of earlier operators.
    """

    inputs: tuple[InputSpec, ...]
    operators: tuple[Operator, ...]
    connections: tuple[tuple[Source, ...], ...]

    def __post_init__(self) -> None:
        """Check the connections.

        Raises:
            SpaceError: If there is no operator, two inputs have one name, or a result is not read; if an
                operator reads a value that does not exist, or that has another shape, data type or range.
        """
        if not self.operators:
            raise SpaceError("a model needs at least one operator")
        if len(self.connections) != len(self.operators):
            raise SpaceError(
                f"a network of {len(self.operators)} operators has connections of {len(self.connections)}"
            )
        repeated = [name for name, n in Counter(spec.name for spec in self.inputs).items() if n > 1]
        if repeated:
            raise SpaceError(f"two inputs of the network have the name {repeated[0]!r}; names must differ")
        declared = {spec.name: spec for spec in self.inputs}
        for place, (operator, sources) in enumerate(zip(self.operators, self.connections, strict=True)):
            if len(sources) != len(operator.inputs):
                raise SpaceError(
                    f"{operator.key} has {len(operator.inputs)} inputs, but {len(sources)} are connected"
                )
            for source, needed in zip(sources, operator.inputs, strict=True):
                if isinstance(source, int) and 0 <= source < place:
                    _check_follows(self.operators[source], operator, needed)
                elif isinstance(source, str) and source in declared:
                    _check_fits(declared[source], operator, needed)
                else:
                    raise SpaceError(
                        f"{operator.key} reads {source!r}, which is neither an input of the network "
                        f"({', '.join(declared) or 'none'}) nor an earlier operator"
                    )
        unread = set(range(len(self.operators) - 1)).difference(*self.connections)
        if unread:
            raise SpaceError(
                f"no operator reads the result of {self.operators[min(unread)].key}; connect it or leave it "
                "out"
            )

    @classmethod
    def chain(cls, operators: Iterable[Operator]) -> Network:
        """Connect operators one after another.

        Args:
            operators: At least one operator. The first input of each is the result of the one before. The
                other inputs are inputs of the network.

        Returns:
            The network. Its first input is called "input", the others "<position>.<name in the operator>".

        Raises:
            SpaceError: If the operators do not fit together.
        """
        operators = tuple(operators)
        inputs: list[InputSpec] = []
        connections: list[tuple[Source, ...]] = []
        for place, operator in enumerate(operators):
            sources: list[Source] = []
            for i, (name, spec) in enumerate(operator.graph.inputs.items()):
                if place and i == 0:
                    sources.append(place - 1)
                    continue
                own_name = f"{place}.{name}" if inputs else INPUT
                inputs.append(InputSpec(own_name, spec.shape, spec.dtype, spec.high))
                sources.append(own_name)
            connections.append(tuple(sources))
        return cls(tuple(inputs), operators, tuple(connections))

    @property
    def is_chain(self) -> bool:
        """Whether `chain` makes this network of its operators."""
        single = len(self.inputs) == 1 and self.inputs[0].name == INPUT
        return single and self == Network.chain(self.operators)

    @property
    def output(self) -> TensorSpec:
        """Shape and data type of the result."""
        return self.operators[-1].graph.output

    def with_precision(self, precision: str) -> Network:
        """Return the network with all operators in a precision."""
        if all(operator.precision == precision for operator in self.operators):
            return self
        return replace(self, operators=tuple(replace(op, precision=precision) for op in self.operators))

    def evaluate(self, inputs: Mapping[str, Value], apply: Callable[..., Value]) -> Value:
        """Compute the result. Each value is released after its last use.

        Args:
            inputs: A value for each input of the network, by name.
            apply: A function from the position of an operator and its input values to its result.

        Returns:
            The result of the last operator.
        """
        values: dict[Source, Value] = dict(inputs.items())
        for place, sources in enumerate(self.connections):
            arguments = [values[source] for source in sources]
            for source in self._last_uses[place]:
                del values[source]
            values[place] = apply(place, *arguments)
        return values[len(self.operators) - 1]

    @cached_property
    def _last_uses(self) -> tuple[tuple[Source, ...], ...]:
        """The values that each operator is the last one to read."""
        last = {source: place for place, sources in enumerate(self.connections) for source in sources}
        return tuple(
            tuple(source for source in dict.fromkeys(sources) if last[source] == place)
            for place, sources in enumerate(self.connections)
        )

    @property
    def activation_bytes(self) -> int:
        """Largest number of bytes of activations that are held at once; see `Graph.peak_bytes`."""
        specs: dict[Source, TensorSpec] = {s.name: TensorSpec(s.shape, s.dtype) for s in self.inputs}
        peak = 0
        for place, (operator, sources) in enumerate(zip(self.operators, self.connections, strict=True)):
            float_bytes, inputs = VALUE_BYTES[operator.precision], list(operator.graph.inputs)
            waiting = {s: spec for s, spec in specs.items() if s not in sources}
            kept = [
                name
                for name, source in zip(inputs, sources, strict=True)
                if source not in self._last_uses[place]
            ]
            others = sum(spec.bytes(float_bytes) for spec in waiting.values())
            peak = max(peak, others + operator.graph.peak_bytes(float_bytes, kept))
            for source in self._last_uses[place]:
                del specs[source]
            specs[place] = operator.graph.output
        return peak


def as_network(operators: Network | Iterable[Operator]) -> Network:
    """Return a network as it is, and operators as a chain."""
    return operators if isinstance(operators, Network) else Network.chain(operators)


def _check_follows(before: Operator, after: Operator, needed: TensorSpec) -> None:
    result = before.graph.output
    if result.shape != needed.shape:
        raise SpaceError(f"{after.key} cannot follow {before.key}: the shapes between them differ")
    if result.dtype != needed.dtype:
        raise SpaceError(
            f"{after.key} cannot follow {before.key}: it reads {needed.dtype}, the result is {result.dtype}"
        )


def _check_fits(declared: InputSpec, operator: Operator, needed: TensorSpec) -> None:
    given = (declared.shape, declared.dtype)
    if given != (needed.shape, needed.dtype):
        raise SpaceError(
            f"input {declared.name!r} is {given[1]} of shape {given[0]}, {operator.key} reads {needed.dtype} "
            f"of shape {needed.shape}"
        )
    if needed.high is not None and (declared.high or DEFAULT_HIGH) > needed.high:
        raise SpaceError(
            f"input {declared.name!r} has integers below {declared.high or DEFAULT_HIGH}, {operator.key} "
            f"reads integers below {needed.high}"
        )
