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
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import SpaceError
from hwnas.ops.graph import INPUT as BLOCK_INPUT
from hwnas.ops.operator import Operator

OPSET = 18
IR_VERSION = 8  # the one that came with opset 18
INPUT, OUTPUT = "input", "logits"
OPERATORS = "operators"  # property of a model: the keys of its operators in order, as a JSON list

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
    operators: Sequence[Operator],
    weights: Sequence[Weights],
    batch_size: int | None = 1,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A chain of operators as one ONNX model with its weights inside, checked.

    Input ``input`` is (batch, channels, height, width) float32, output ``logits`` is what the last operator
    gives: (batch, classes) after a head, otherwise (batch, channels, height, width). `weights` holds one
    mapping an operator. `batch_size` None leaves the batch open (dimension ``batch``). `metadata` goes into
    the model's properties, as do the keys of the operators (`parts` reads them). SpaceError if operators do
    not follow on each other, for weights that are missing or of another shape, and for a precision other
    than fp32 (quantise the model instead).
    """
    model = helper.make_model(
        _graph(operators, weights, batch_size),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hwnas",
    )
    keys = json.dumps([operator.key for operator in operators])
    helper.set_model_props(model, {**(metadata or {}), OPERATORS: keys})
    onnx.checker.check_model(model, full_check=True)
    return model


def parts(model: onnx.ModelProto) -> tuple[list[Operator], list[dict[str, NDArray[np.float32]]], int | None]:
    """The operators, weights and batch size that `onnx_model` made a model of.

    SpaceError for a model that it did not make, or that was changed since (optimised, quantised).
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    try:
        keys = json.loads({prop.key: prop.value for prop in model.metadata_props}[OPERATORS])
        operators = [Operator.parse(key) for key in keys]
        weights = [
            {name: arrays[f"{i}.{name}"] for name in weight_shapes(operator)}
            for i, operator in enumerate(operators)
        ]
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    except (KeyError, IndexError, ValueError) as error:
        raise SpaceError(f"not a model that hwnas made, or changed since: it has no {error}") from None
    batch_size = batch.dim_value if batch.HasField("dim_value") else None
    if _graph(operators, weights, batch_size) != model.graph:
        raise SpaceError("the model was changed since hwnas made it; give the file that was exported")
    return operators, weights, batch_size


def _graph(
    operators: Sequence[Operator], weights: Sequence[Weights], batch_size: int | None
) -> onnx.GraphProto:
    if not operators:
        raise SpaceError("a model needs at least one operator")
    for before, after in pairwise(operators):
        if before.out_shape != after.in_shape:
            raise SpaceError(f"{after.key} cannot follow {before.key}: the shapes between them differ")
    graph = GraphBuilder()
    value = INPUT
    for i, (operator, given) in enumerate(zip(operators, weights, strict=True)):
        value = graph.operator(str(i), operator, given, value)
    graph.nodes[-1].output[0] = OUTPUT
    batch: int | str = "batch" if batch_size is None else batch_size
    return helper.make_graph(
        graph.nodes,
        "hwnas",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *operators[0].in_shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, *operators[-1].out_shape])],
        graph.initializers,
    )


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
        if all(known.name != name for known in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
        return name

    def operator(self, prefix: str, operator: Operator, weights: Weights, value: str) -> str:
        """Add an operator with its weights.

        Args:
            prefix: Prefix of the names of nodes and initializers.
            operator: An operator in fp32.
            weights: Arrays by the names of `weight_shapes`.
            value: Name of the input.

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
        values = {BLOCK_INPUT: value}
        for node in operator.graph.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.op.name] = node.op.to_onnx(self, f"{prefix}.{node.op.name}", *inputs)
        return values[operator.graph.nodes[-1].op.name]
