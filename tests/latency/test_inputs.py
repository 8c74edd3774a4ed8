"""The inputs that models are timed on: made from their declared types, on every device."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hwnas.errors import DeviceError, MissingExtraError
from hwnas.latency import runner
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Plan
from hwnas.ops import InputSpec, network
from hwnas.ops import onnx as graphs
from hwnas.ops.network import Network
from tests.spaces.two_inputs import TwoInputs

SPACE = TwoInputs()


def two_inputs_model(batch_size: int | None = 1) -> tuple[Network, bytes]:
    made = SPACE.network(SPACE.sample(1, 0)[0])
    weights = [graphs.random_weights(operator, 0) for operator in made.operators]
    return made, graphs.onnx_model(made, weights, batch_size).SerializeToString()


def identity_model(
    kind: int, shape: Sequence[int | str] = ("n", 3), properties: dict[str, str] | None = None
) -> bytes:
    """A model that gives back its one input."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "identity", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, properties or {})
    return bytes(model.SerializeToString())


def test_the_board_makes_the_inputs_that_hwnas_makes() -> None:
    """The runner is a file of its own, so both have the function and the name of the property."""
    specs = [InputSpec("a", (3, 4)), InputSpec("b", (5,), "int64", 9), InputSpec("c", (2,), "bool"),
             InputSpec("d", (2,), "float16"), InputSpec("e", (4,), "int32")]  # fmt: skip
    here = network.random_inputs(specs, 2)
    there = runner.random_inputs([(s.name, s.dtype, (2, *s.shape)) for s in specs], {"b": 9})
    assert here.keys() == there.keys()
    for name, array in here.items():
        assert there[name].dtype == array.dtype
        assert np.array_equal(there[name], array)
    assert runner.INPUT_RANGES == graphs.INPUT_RANGES


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_onnxruntime_runs_on_the_declared_inputs(batch_size: int | None) -> None:
    made, data = two_inputs_model(batch_size)
    (found,) = runner.open_onnxruntime(data, 1)()
    arrays = network.random_inputs(made.inputs, batch_size or 1)
    assert np.array_equal(found, onnxruntime.InferenceSession(data).run(None, arrays)[0])
    assert arrays["ids"].max() > 1


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_other_devices_run_on_the_same_inputs(name: str) -> None:
    try:
        device = get_device(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    _, data = two_inputs_model()
    result = device.open(data)()
    found = result.detach().numpy() if name == "torch" else next(iter(result.values()))
    (expected,) = runner.open_onnxruntime(data, 1)()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert device.measure([data], Plan(((0,), (0,)))).time_ns.min() > 0


@pytest.mark.parametrize(
    "kind", ["FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT32", "INT64", "UINT8", "UINT64"]
)
def test_numbers_of_any_type_are_made(kind: str) -> None:
    (found,) = runner.open_onnxruntime(identity_model(TensorProto.DataType.Value(kind)), 1)()
    assert found.dtype == helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
    assert found.shape == (1, 3)
    if found.dtype.kind != "f":
        assert set(found.ravel().tolist()) <= {0, 1}


def test_integers_are_in_the_declared_range() -> None:
    data = identity_model(TensorProto.INT64, (1, 500), {"input_ranges": json.dumps({"x": 7})})
    (found,) = runner.open_onnxruntime(data, 1)()
    assert set(found.ravel().tolist()) == set(range(7))


def test_text_cannot_be_made() -> None:
    with pytest.raises(
        DeviceError, match=r"input x of a model is a tensor\(string\), of which no random values"
    ):
        get_device("onnxruntime").measure([identity_model(TensorProto.STRING)], Plan(((0,),)))


@pytest.mark.parametrize("text", ["no JSON", "[3]", '{"x": 0}', '{"x": "3"}'])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    data = identity_model(TensorProto.INT64, properties={"input_ranges": text})
    with pytest.raises(
        runner.RunnerError, match=r"the property input_ranges of a model is .* no JSON object"
    ):
        runner.open_onnxruntime(data, 1)


def test_models_of_one_float_input_declare_no_range() -> None:
    assert runner.input_ranges(None) == {}
    _, data = two_inputs_model()
    names = [prop.key for prop in onnx.load_from_string(data).metadata_props]
    assert names == ["operators", "connections", "input_ranges"]
