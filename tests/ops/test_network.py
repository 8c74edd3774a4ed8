"""Networks as graphs of operators, from connections to ONNX and back."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from hwnas.errors import SpaceError
from hwnas.ops import InputSpec, Network, Operator
from hwnas.ops.network import random_inputs
from hwnas.ops.onnx import onnx_model, parts, random_weights
from tests.spaces.two_inputs import VOCABULARY, TwoInputs, embed_tokens, masked_sum

CONV = Operator("conv", (4, 6, 1), (4, 6, 1), (("k", 1), ("s", 1), ("act", "relu")))
EMBED = Operator(embed_tokens, (6,), (4, 6, 1), ())
SUM = Operator(masked_sum, (4, 6, 1), (4, 6, 1), (("k", 3),))
IDS, MASK = InputSpec("ids", (6,), "int64", VOCABULARY), InputSpec("mask", (6,))


def test_a_chain_reads_one_input() -> None:
    chain = Network.chain([CONV, CONV])
    assert chain.inputs == (InputSpec("input", (4, 6, 1)),)
    assert chain.connections == (("input",), (0,))
    assert chain.is_chain
    assert chain.activation_bytes == CONV.activation_bytes


def test_further_inputs_of_the_operators_of_a_chain_are_inputs_of_the_network() -> None:
    network = Network.chain([CONV, SUM])
    assert [spec.name for spec in network.inputs] == ["input", "1.memory", "1.mask"]
    assert network.connections == (("input",), (0, "1.memory", "1.mask"))
    assert not network.is_chain


@pytest.mark.parametrize(
    ("inputs", "operators", "connections", "message"),
    [
        ((), (), (), "at least one operator"),
        ((IDS,), (EMBED,), (), "1 operators has connections of 0"),
        ((IDS, IDS), (EMBED,), (("ids",),), "two inputs of the network have the name 'ids'"),
        ((IDS,), (EMBED,), (("ids", "ids"),), "has 1 inputs, but 2 are connected"),
        ((IDS,), (EMBED,), (("tokens",),), r"reads 'tokens', which is neither an input .*\(ids\)"),
        ((IDS,), (EMBED, CONV), (("ids",), (1,)), "reads 1, which is neither"),
        (
            (MASK,),
            (EMBED,),
            (("mask",),),
            r"input 'mask' is float32 of shape \(6,\), embed_tokens.* reads int64",
        ),
        ((InputSpec("ids", (6,), "int64", 51),), (EMBED,), (("ids",),), "integers below 51, .* below 50"),
        (
            (IDS, MASK),
            (EMBED, CONV, SUM),
            (("ids",), (0,), (0, 0, "mask")),
            "no operator reads the result of",
        ),
    ],
)
def test_a_network_that_cannot_be_computed_is_refused(inputs, operators, connections, message) -> None:
    with pytest.raises(SpaceError, match=message):
        Network(inputs, operators, connections)


@pytest.mark.parametrize(
    ("dtype", "high", "message"),
    [
        ("str", None, "data type 'str'; give a number"),
        ("text", None, "data type 'text'"),
        ("float32", 3, "upper limit 3"),
        ("int64", 0, "upper limit 0"),
    ],
)
def test_an_input_that_cannot_be_made_is_refused(dtype: str, high: int | None, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        InputSpec("x", (3,), dtype, high)


def test_random_inputs_have_the_declared_types_and_ranges() -> None:
    specs = [
        InputSpec("image", (3, 4, 4)),
        IDS,
        InputSpec("flags", (7,), "bool"),
        InputSpec("half", (2,), "float16"),
    ]
    arrays = random_inputs(specs, 64)
    noise = np.random.default_rng(0).standard_normal((64, 3, 4, 4), dtype=np.float32)
    assert np.array_equal(arrays["image"], noise)
    assert (arrays["ids"].dtype, arrays["flags"].dtype, arrays["half"].dtype) == ("int64", "bool", "float16")
    assert (arrays["ids"].min(), arrays["ids"].max()) == (0, VOCABULARY - 1)
    assert 0 < arrays["flags"].mean() < 1


def test_a_value_is_released_after_its_last_use() -> None:
    network = Network((IDS, MASK), (EMBED, CONV, SUM, CONV), (("ids",), (0,), (0, 1, "mask"), (2,)))
    assert network._last_uses == (("ids",), (), (0, 1, "mask"), (2,))
    result = network.evaluate(
        {"ids": "ids", "mask": "mask"}, lambda place, *read: f"{place}({','.join(read)})"
    )
    assert result == "3(2(0(ids),1(0(ids)),mask))"
    value = 4 * 4 * 6
    assert network.activation_bytes == max(
        8 * 6 + 4 * 6 + value,  # the embedding; the mask waits
        4 * 6 + 2 * value,  # the convolution, whose input is read again
        SUM.activation_bytes,
    )


def test_a_graph_is_read_back_from_its_model() -> None:
    space = TwoInputs()
    for arch in space.sample(3, 0):
        network = space.network(arch)
        weights = [random_weights(operator, 0) for operator in network.operators]
        for batch_size in (1, 3, None):
            data = onnx_model(network, weights, batch_size).SerializeToString()
            again, _, found = parts(onnx.load_from_string(data))
            assert (again, found) == (network, batch_size)
    model = onnx_model(network, weights)
    model.metadata_props[1].value = '[["ids"]]'
    with pytest.raises(SpaceError, match="connections of 1"):
        parts(model)


def test_a_model_of_a_graph_computes_its_operators_in_turn() -> None:
    space = TwoInputs()
    network = space.network(space.architecture({**space.sample(1, 0)[0].values, "depth": 1}))
    weights = [random_weights(operator, 1) for operator in network.operators]

    def run(part: Network, given, arrays):
        session = onnxruntime.InferenceSession(onnx_model(part, given, 2).SerializeToString())
        return session.run(["logits"], arrays)[0]

    def apply(place: int, *values):
        part = Network.chain(network.operators[place : place + 1])
        names = [spec.name for spec in part.inputs]
        return run(part, weights[place : place + 1], dict(zip(names, values, strict=True)))

    arrays = random_inputs(network.inputs, 2)
    whole = run(network, weights, arrays)
    np.testing.assert_allclose(network.evaluate(arrays, apply), whole, rtol=1e-5, atol=1e-5)
