"""Operators as ONNX graphs: the profiler times the same graphs that export ships. No torch in here.

Batch norm is folded, so every convolution has a bias and an operator's weights are, by name,

    <op>.weight  <op>.bias                     convolution (out, in per group, k, k); linear (out, in)
    <op>.reduce.weight  .bias  <op>.expand.…   the two 1×1 convolutions of squeeze-and-excite

Graphs are of opset 18 (torch's exporter's default); `HardSwish` and `HardSigmoid` are the operators of that
name, ReLU6 is a `Clip`. ONNX Runtime fuses activations and the addition of a residual into the convolution
before them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hwnas.errors import SpaceError
from hwnas.ops.network import InputSpec, Network, as_network
from hwnas.ops.operator import Operator

OPSET = 18
IR_VERSION = 8  # the one that came with opset 18
OUTPUT = "logits"
# Properties of a model, as JSON: the keys of its operators in order; the sources of the inputs of each
# operator, as in `Network`, where they make no chain; the upper limits of integer inputs by name.
OPERATORS, CONNECTIONS, INPUT_RANGES = "operators", "connections", "input_ranges"

Weights = Mapping[str, NDArray[np.float32]]
Rng = int | np.random.Generator


def weight_shapes(operator: Operator) -> dict[str, tuple[int, ...]]:
    """Return the shape of each shipped weight of an operator, by name."""
    return {f"{op.name}.{name}": shape for op in operator.ops for name, shape in op.shipped().items()}


def random_weights(operator: Operator, rng: Rng) -> dict[str, NDArray[np.float32]]:
    """Weights by name at He scale (https://arxiv.org/abs/1502.01852), so that no activation is denormal."""
    generator = np.random.default_rng(rng)
    weights = {}
    for name, shape in weight_shapes(operator).items():
        scale = 0.1 if len(shape) == 1 else np.sqrt(2.0 / np.prod(shape[1:]))
        weights[name] = np.float32(scale) * generator.standard_normal(shape, dtype=np.float32)
    return weights


def onnx_model(
    network: Network | Sequence[Operator],
    weights: Sequence[Weights],
    batch_size: int | None = 1,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Build and check an ONNX model of a network, with its weights inside.

    The inputs are those of the network, each with a batch axis in front; that of a chain is called ``input``.
    The output ``logits`` is the result of the last operator, such as (batch, classes) after a head. The
    properties of the model hold the keys of the operators, from which `parts` makes the network again.

    Args:
        network: A network, or the operators of a chain.
        weights: One mapping an operator, as in `random_weights`.
        batch_size: Size of the batch axis; None leaves it open (dimension ``batch``).
        metadata: Further properties of the model.

    Returns:
        The model.

    Raises:
        SpaceError: If the operators do not fit together, a weight is missing or has another shape, or a
            precision is not fp32 (quantise the fp32 model instead).
    """
    network = as_network(network)
    model = helper.make_model(
        _graph(network, weights, batch_size),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hwnas",
    )
    properties = {**(metadata or {}), OPERATORS: json.dumps([operator.key for operator in network.operators])}
    if not network.is_chain:
        properties[CONNECTIONS] = json.dumps(network.connections)
    ranges = {spec.name: spec.high for spec in network.inputs if spec.high is not None}
    if ranges:
        properties[INPUT_RANGES] = json.dumps(ranges)
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model


def parts(model: onnx.ModelProto) -> tuple[Network, list[dict[str, NDArray[np.float32]]], int | None]:
    """Return the network, the weights and the batch size that `onnx_model` made a model of.

    Raises:
        SpaceError: For a model that it did not make, or that was changed since (optimised, quantised).
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    try:
        properties = {prop.key: prop.value for prop in model.metadata_props}
        operators = [Operator.parse(key) for key in json.loads(properties[OPERATORS])]
        if CONNECTIONS in properties:
            inputs = _declared_inputs(model.graph, dict(json.loads(properties.get(INPUT_RANGES, "{}"))))
            connections = tuple(tuple(sources) for sources in json.loads(properties[CONNECTIONS]))
            network = Network(inputs, tuple(operators), connections)
        else:
            network = Network.chain(operators)
        weights = [
            {name: arrays[f"{i}.{name}"] for name in weight_shapes(operator)}
            for i, operator in enumerate(operators)
        ]
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SpaceError(f"not a model that hwnas made, or changed since: it has no {error}") from None
    batch_size = batch.dim_value if batch.HasField("dim_value") else None
    if _graph(network, weights, batch_size) != model.graph:
        raise SpaceError("the model was changed since hwnas made it; give the file that was exported")
    return network, weights, batch_size


def _declared_inputs(graph: onnx.GraphProto, ranges: Mapping[str, int]) -> tuple[InputSpec, ...]:
    """Return the inputs of a graph that `onnx_model` made."""
    return tuple(
        InputSpec(
            value.name,
            tuple(size.dim_value for size in value.type.tensor_type.shape.dim[1:]),
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            ranges.get(value.name),
        )
        for value in graph.input
    )


def _graph(network: Network, weights: Sequence[Weights], batch_size: int | None) -> onnx.GraphProto:
    if len(weights) != len(network.operators):
        raise SpaceError(f"the network has {len(network.operators)} operators, got weights of {len(weights)}")
    graph = GraphBuilder()

    def add(place: int, *values: str) -> str:
        return graph.operator(str(place), network.operators[place], weights[place], *values)

    network.evaluate({spec.name: spec.name for spec in network.inputs}, add)
    graph.nodes[-1].output[0] = OUTPUT
    batch: int | str = "batch" if batch_size is None else batch_size
    return helper.make_graph(
        graph.nodes,
        "hwnas",
        [_value_info(spec.name, spec.dtype, (batch, *spec.shape)) for spec in network.inputs],
        [_value_info(OUTPUT, network.output.dtype, (batch, *network.output.shape))],
        graph.initializers,
    )


def _value_info(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


class GraphBuilder:
    """Nodes and initializers of an ONNX graph as they are added, in topological order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output.

        Args:
            kind: Operator of ONNX, such as "Conv".
            name: Unique name of the node.
            *inputs: Names of values and initializers.
            **attributes: Attributes of the node.

        Returns:
            The name of the output.
        """
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def scalar(self, name: str, value: float) -> str:
        """Add a float32 constant that all nodes share, once, and return its name."""
        return self.constant(name, np.array(value, dtype=np.float32))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant array that all nodes share, once, and return its name."""
        if all(known.name != name for known in self.initializers):
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def operator(self, prefix: str, operator: Operator, weights: Weights, *inputs: str) -> str:
        """Add an operator with its weights.

        Args:
            prefix: Prefix of the names of nodes and initializers.
            operator: An operator in fp32.
            weights: Arrays by the names of `weight_shapes`.
            *inputs: Names of the input values, in the order of the operator's inputs.

        Returns:
            The name of the output.

        Raises:
            SpaceError: For another precision, and for weights that are missing or of another shape.
        """
        if operator.precision != "fp32":
            raise SpaceError(f"{operator.key}: graphs are built in fp32 only; quantise the fp32 model")
        shapes = weight_shapes(operator)
        if weights.keys() != shapes.keys():
            odd = sorted(weights.keys() ^ shapes.keys())[0]
            raise SpaceError(
                f"{operator.key}: weight {odd!r} is {'not its' if odd in weights else 'missing'}"
            )
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise SpaceError(f"{operator.key}: {name} has shape {weights[name].shape}, expected {shape}")
            array = np.ascontiguousarray(weights[name], dtype=np.float32)
            self.initializers.append(numpy_helper.from_array(array, f"{prefix}.{name}"))
        values = dict(zip(operator.graph.inputs, inputs, strict=True))
        for node in operator.graph.nodes:
            read = [values[name] for name in node.inputs]
            values[node.op.name] = node.op.to_onnx(self, f"{prefix}.{node.op.name}", *read)
        return values[operator.graph.nodes[-1].op.name]
