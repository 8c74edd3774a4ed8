from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import SpaceError
from hwnas.ops import Conv, Network
from hwnas.ops.onnx import onnx_model, parts, random_weights, weight_shapes
from hwnas.spaces import NetworkSpace, Operator, get_space

STEM = {"width": [8, 16], "activation": "relu6"}


def stage(block: str, **changes):
    row = {"block": block, "width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2], "stride": 2}
    return {**row, **changes}


SPACES = {
    "mbconv": [stage("mbconv"), stage("mbconv", activation="hswish", se=True, kernel=[7])],
    "dsconv": [stage("mbconv", expand=[1], width=[8]), stage("mbconv", expand=[1], se=True)],
    "fused": [stage("fused", activation="relu6"), stage("fused", se=True, stride=1)],
    "basic": [stage("basic"), stage("basic", activation="hswish", stride=1)],
}


def small_space(name: str) -> NetworkSpace:
    head = {"width": 24, "features": 16 if name == "mbconv" else 0}
    return get_space("mobilenetv3", resolutions=(17, 24), channels=1, classes=5, stem=STEM, head=head,
                     stages=SPACES[name])  # fmt: skip


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(["logits"], {"input": x})[0]


def weights_of(operators, seed=0):
    rng = np.random.default_rng(seed)
    return [random_weights(operator, rng) for operator in operators]


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_chain_is_the_composition_of_its_operators(name, seed):
    space = small_space(name)
    operators = space.operators(space.sample(1, seed)[0])
    weights = weights_of(operators, seed)
    x = np.random.default_rng(seed).standard_normal((1, *operators[0].in_shape), dtype=np.float32)
    whole = run(onnx_model(operators, weights), x)
    for operator, given_weights in zip(operators, weights, strict=True):
        assert x.shape[1:] == operator.in_shape
        x = run(onnx_model([operator], [given_weights]), x)
    np.testing.assert_allclose(whole, x, rtol=1e-4, atol=1e-4 * np.abs(x).max())


@pytest.mark.parametrize("name", SPACES)
def test_number_of_weights_follows_params(name):
    for operator in small_space(name).all_operators():
        # batch norm's scale and shift become one bias; a plain convolution gets one too
        convs = [op for op in operator.ops if isinstance(op, Conv)]
        change = sum(c.out_channels * (1 - 2 * c.norm - c.bias) for c in convs)
        count = sum(int(np.prod(shape)) for shape in weight_shapes(operator).values())
        assert count == operator.params + change


def test_weights_at_he_scale_keep_activations_normal():
    space = get_space("mobilenetv3", resolutions=(64,))
    operators = space.operators(space.sample(1, 0)[0])
    x = np.random.default_rng(0).standard_normal((1, *operators[0].in_shape), dtype=np.float32)
    logits = run(onnx_model(operators, weights_of(operators)), x)
    assert 1e-2 < np.abs(logits).max() < 1e5


def test_weights_come_from_the_rng_alone():
    operator = small_space("mbconv").all_operators()[3]
    one, two, other = (random_weights(operator, seed) for seed in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
        assert (one[name] != other[name]).any()


def test_open_batch_and_metadata():
    space = small_space("mbconv")
    operators = space.operators(space.sample(1, 1)[0])
    model = onnx_model(operators, weights_of(operators), None, {"architecture": "abc"})
    assert {p.key: p.value for p in model.metadata_props} == {
        "architecture": "abc",
        "operators": json.dumps([operator.key for operator in operators]),
    }
    x = np.random.default_rng(0).standard_normal((3, *operators[0].in_shape), dtype=np.float32)
    np.testing.assert_allclose(run(model, x)[1:2], run(model, x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_parts_of_a_model_are_what_it_was_made_of(name, batch_size):
    space = small_space(name)
    operators = list(space.operators(space.sample(1, 2)[0]))
    weights = weights_of(operators)
    data = onnx_model(operators, weights, batch_size).SerializeToString()
    network, found_weights, found_batch_size = parts(onnx.load_from_string(data))
    assert (network, found_batch_size) == (Network.chain(operators), batch_size)
    for one, two in zip(found_weights, weights, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def test_parts_of_other_models_are_refused():
    space = small_space("mbconv")
    operators = space.operators(space.sample(1, 2)[0])

    def changed(change):
        model = onnx_model(operators, weights_of(operators))
        change(model)
        with pytest.raises(SpaceError, match="changed since"):
            parts(model)

    changed(lambda model: model.ClearField("metadata_props"))
    changed(lambda model: model.metadata_props.pop())
    changed(lambda model: setattr(model.metadata_props[0], "value", "not a list"))
    changed(lambda model: model.graph.initializer.pop())
    changed(lambda model: model.graph.input.pop())
    changed(lambda model: model.graph.node.pop())
    changed(lambda model: setattr(model.graph.node[0], "op_type", "ConvInteger"))


def test_wrong_chains_and_weights_are_refused():
    space = small_space("mbconv")
    operators = space.operators(space.sample(1, 0)[0])
    weights = weights_of(operators)
    with pytest.raises(SpaceError, match="cannot follow"):
        onnx_model([operators[0], operators[-1]], [weights[0], weights[-1]])
    with pytest.raises(SpaceError, match=r"'conv.bias' is missing"):
        onnx_model(operators[:1], [{"conv.weight": weights[0]["conv.weight"]}])
    with pytest.raises(SpaceError, match="'extra' is not its"):
        onnx_model(operators[:1], [{**weights[0], "extra": np.zeros(1, dtype=np.float32)}])
    with pytest.raises(SpaceError, match=r"conv.bias has shape \(1,\)"):
        onnx_model(operators[:1], [{**weights[0], "conv.bias": np.zeros(1, dtype=np.float32)}])
    with pytest.raises(SpaceError, match="fp32 only"):
        onnx_model([dataclasses.replace(operators[0], precision="int8")], weights[:1])
    with pytest.raises(SpaceError, match="at least one"):
        onnx_model([], [])


def test_activations_are_what_their_names_say():
    x = np.linspace(-8, 8, 65, dtype=np.float32).reshape(1, 1, 5, 13)
    identity = {"conv.weight": np.ones((1, 1, 1, 1), np.float32), "conv.bias": np.zeros(1, np.float32)}
    expected = {
        "identity": x,
        "relu": np.maximum(x, 0),
        "relu6": np.clip(x, 0, 6),
        "hswish": x * np.clip(x + 3, 0, 6) / 6,
    }
    for name, y in expected.items():
        operator = Operator("conv", (1, 5, 13), (1, 5, 13), (("k", 1), ("s", 1), ("act", name)))
        np.testing.assert_allclose(run(onnx_model([operator], [identity]), x), y, rtol=1e-5, atol=1e-5)


# ---- against torch ------------------------------------------------------------------------------


def torch_network(space: NetworkSpace, seed: int):
    """A network whose batch norm does something, and its outputs on random inputs (2, …)."""
    import torch

    from hwnas.networks.blocks import build_network

    network = build_network(space, space.sample(1, seed)[0], rng=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "running_mean"):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.uniform_(tensor, -0.5, 0.5, generator=generator)
    x = torch.randn((2, *network.input_shape), generator=generator)
    with torch.no_grad():
        return network, x, network(x).numpy()


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_graph_equals_the_torch_module(name, seed):
    from hwnas.networks.blocks import folded_weights

    network, x, expected = torch_network(small_space(name), seed)
    found = run(onnx_model(network.operators, folded_weights(network), 2), x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", ["mbconv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dsconv", "fused"))]
)
@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own parts
def test_graph_equals_what_torchs_exporter_makes(name, tmp_path):
    import torch

    from hwnas.networks.blocks import folded_weights

    network, x, _ = torch_network(small_space(name), 5)
    path = tmp_path / "exported.onnx"
    torch.onnx.export(network, (x,), path, input_names=["input"], output_names=["logits"], dynamo=True,
                      external_data=False, verbose=False)  # fmt: skip
    exported = onnxruntime.InferenceSession(path.read_bytes()).run(["logits"], {"input": x.numpy()})[0]
    found = run(onnx_model(network.operators, folded_weights(network), 2), x.numpy())
    np.testing.assert_allclose(found, exported, rtol=1e-4, atol=1e-4 * np.abs(exported).max())
