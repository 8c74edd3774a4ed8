from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hwnas.networks.blocks import OperatorModule, build_network, folded_weights, unfolded_network
from hwnas.ops import Activation, Add, Conv, GlobalPool, MaxPool, SqueezeExcite
from hwnas.ops.onnx import random_weights
from hwnas.spaces import NetworkSpace, Operator, get_space

from .small_spaces import SPACES, lively

OFA = get_space("mobilenetv3", resolutions=(64, 96))


def traced_macs(module: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """MACs as torch counts them: half of the operations of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("space", [*SPACES.values(), OFA], ids=[*SPACES, "ofa"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_macs_and_params_are_those_of_a_trace(space: NetworkSpace, seed: int) -> None:
    arch = space.sample(1, rng=seed)[0]
    network = build_network(space, arch)
    assert sum(p.numel() for p in network.parameters()) == space.params([arch])[0]
    assert traced_macs(network, network.input_shape) == space.macs([arch])[0]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_operator_has_the_shape_macs_and_params_it_says(space: NetworkSpace) -> None:
    for operator in space.all_operators()[::5]:
        block = OperatorModule(operator)
        assert block.eval()(torch.zeros(2, *operator.in_shape)).shape[1:] == operator.out_shape
        assert traced_macs(block, operator.in_shape) == operator.macs
        assert sum(p.numel() for p in block.parameters()) == operator.params


def folded_forward(operator: Operator, weights: dict[str, np.ndarray], x: torch.Tensor) -> torch.Tensor:
    """An operator computed from folded weights alone, as a graph of convolutions would."""
    activations = {"identity": lambda y: y, "relu": F.relu, "relu6": F.relu6}
    activations["hswish"] = lambda y: y * F.relu6(y + 3) / 6
    w = {name: torch.from_numpy(array) for name, array in weights.items()}
    values = {"x": x}
    for node in operator.graph.nodes:
        layer, out = node.op, values[node.inputs[0]]
        if isinstance(layer, Conv):
            groups = layer.in_channels if layer.depthwise else 1
            weight, bias = w[f"{layer.name}.weight"], w[f"{layer.name}.bias"]
            out = F.conv2d(out, weight, bias, layer.stride, layer.kernel // 2, groups=groups)
            out = activations[layer.activation](out)
        elif isinstance(layer, SqueezeExcite):
            gate = out.mean((2, 3), keepdim=True)
            gate = F.relu(F.conv2d(gate, w[f"{layer.name}.reduce.weight"], w[f"{layer.name}.reduce.bias"]))
            gate = F.conv2d(gate, w[f"{layer.name}.expand.weight"], w[f"{layer.name}.expand.bias"])
            out = out * F.relu6(gate + 3) / 6
        elif isinstance(layer, MaxPool):
            out = F.max_pool2d(out, layer.window, layer.stride, layer.window // 2)
        elif isinstance(layer, GlobalPool):
            out = out.mean((2, 3), keepdim=True)
        elif isinstance(layer, Add):
            out = out + values[node.inputs[1]]
        elif isinstance(layer, Activation):
            out = activations[layer.activation](out)
        else:
            out = out.flatten(1) @ w[f"{layer.name}.weight"].T + w[f"{layer.name}.bias"]
        values[layer.name] = out
    return out


@pytest.mark.parametrize("space", [*SPACES.values(), OFA], ids=[*SPACES, "ofa"])
def test_folding_undoes_unfolding(space: NetworkSpace) -> None:
    operators = space.operators(space.sample(1, rng=0)[0])
    weights = [random_weights(operator, 0) for operator in operators]
    found = folded_weights(unfolded_network(operators, weights))
    for one, two in zip(found, weights, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-6)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_folded_weights_compute_the_same(space: NetworkSpace) -> None:
    for seed, arch in enumerate(space.sample(5, rng=1)):
        network = lively(build_network(space, arch, rng=seed), seed)
        x = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(seed))
        out = x
        for operator, weights in zip(network.operators, folded_weights(network), strict=True):
            assert all(array.dtype == np.float32 for array in weights.values())
            out = folded_forward(operator, weights, out)
        with torch.no_grad():
            torch.testing.assert_close(out, network(x), rtol=1e-4, atol=1e-4)


def test_weights_follow_the_seed_alone_and_hold_no_denormals() -> None:
    space = SPACES["mbconv"]
    arch = space.sample(1, rng=0)[0]
    before = torch.random.get_rng_state()
    first, again, other = (build_network(space, arch, rng=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not first.training
    x = torch.randn(4, *first.input_shape)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    assert 1e-3 < float(first(x).detach().std()) < 1e2
    tiny = torch.finfo(torch.float32).tiny
    for parameter in first.parameters():
        assert not ((parameter != 0) & (parameter.abs() < tiny)).any()


def test_any_spatial_size_is_accepted() -> None:
    space = SPACES["fused"]
    network = build_network(space, space.sample(1, rng=0)[0])
    assert network(torch.zeros(3, 1, 40, 28)).shape == (3, 10)
