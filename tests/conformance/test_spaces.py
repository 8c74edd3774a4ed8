"""What every registered space promises. A newcomer joins by its line in SPACES.

Spaces are taken at two small resolutions, which divide unevenly; `SMALL` has what else makes one quick.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import hwnas
from hwnas.networks.blocks import folded_weights, unfolded_network
from hwnas.networks.elastic import ElasticOp
from hwnas.networks.supernet import Supernet
from hwnas.ops import Conv, Linear, Op, SqueezeExcite
from hwnas.ops.onnx import onnx_model, parts
from hwnas.spaces import SPACES, NetworkSpace, Operator, OperatorSum, get_space, space_of
from tests.latency.fakes import FakeDevice
from tests.networks.small_spaces import batches, lively, lively_supernet

SMALL: dict[str, dict[str, Any]] = {
    "mobilenetv3": {"width": 0.5},
    "proxyless": {"width": 0.5},
    "resnet50": {"widths": (0.125, 0.25), "ratios": (0.25, 0.5)},
}
SIZES = (40, 56)


def small_space(name: str, **parameters: Any) -> NetworkSpace:
    return get_space(name, **{"classes": 7, "resolutions": SIZES, **SMALL.get(name, {}), **parameters})


FOUND = {name: small_space(name) for name in SPACES}
NETS: dict[tuple[str, bool], Supernet] = {}


def supernet(name: str, kernel_transform: bool = False) -> Supernet:
    """A supernet in eval mode whose norms and kernel matrices do something, made once."""
    key = name, kernel_transform
    if key not in NETS:
        NETS[key] = lively_supernet(FOUND[name], kernel_transform=kernel_transform)
    return NETS[key]


each = pytest.mark.parametrize("name", SPACES)
seeds = given(seed=st.integers(0, 2**32))


# ---- choices -------------------------------------------------------------------------------------


@each
def test_a_definition_makes_the_space_again(name: str) -> None:
    for space in (FOUND[name], get_space(name)):
        again = space_of(space.definition)
        assert again == space
        assert again.definition == space.definition
    assert get_space(name, classes=10) != get_space(name)  # the same choices, other networks


@each
def test_resolution_is_elastic(name: str) -> None:
    space = FOUND[name]
    assert space.input_shape == (3, SIZES[1], SIZES[1])
    assert space.choices[space.index("resolution")].values == SIZES
    assert small_space(name, resolutions=(64,)).size * 2 == space.size
    for arch in space.sample(5, 0):
        assert space.operators(arch)[0].in_shape == (3, space.resolution(arch), space.resolution(arch))
        assert space.resolution(arch) == arch.values["resolution"]


@each
@seeds
@settings(max_examples=10, deadline=None)
def test_canonical_form(name: str, seed: int) -> None:
    """Equal networks are equal architectures, and the other way round."""
    space = FOUND[name]
    drawn = np.random.default_rng(seed).integers(0, space.cardinalities, (20, len(space.choices)))
    canonical = space.canonical(drawn)
    assert (space.canonical(canonical) == canonical).all()
    archs = space.architectures(drawn)
    for arch in archs:
        assert space.architecture(arch.values) == arch
    single = archs[0]
    for i, choice in enumerate(space.choices):
        changed = np.array([single.genotype])
        changed[0, i] = (changed[0, i] + 1) % len(choice.values)
        other = space.architectures(changed)[0]
        assert (other == single) == (space.operators(other) == space.operators(single))


# ---- operators -----------------------------------------------------------------------------------


@each
@seeds
@settings(max_examples=10, deadline=None)
def test_operators_form_a_chain_from_the_input_to_the_classes(name: str, seed: int) -> None:
    space = FOUND[name]
    known = set(space.all_operators())
    for arch in space.sample(3, seed):
        operators = space.operators(arch)
        assert operators[-1].out_shape == (7,)
        for before, after in itertools.pairwise(operators):
            assert before.out_shape == after.in_shape
        assert known.issuperset(operators)


@each
def test_every_operator_is_read_back_from_its_key(name: str) -> None:
    for operator in (*FOUND[name].all_operators(), *get_space(name).all_operators()):
        assert Operator.parse(operator.key) == operator


@each
@seeds
@settings(max_examples=10, deadline=None)
def test_vectorised_sums_equal_a_loop_over_operators(name: str, seed: int) -> None:
    space = FOUND[name]
    archs = space.sample(4, seed)
    weights = {op.key: float(i) for i, op in enumerate(space.all_operators())}
    for found, value in (
        (space.macs(archs), lambda op: op.macs),
        (space.params(archs), lambda op: op.params),
        (OperatorSum(space, lambda op: weights[op.key])(archs), lambda op: weights[op.key]),
    ):
        assert found.tolist() == [sum(value(op) for op in space.operators(arch)) for arch in archs]


# ---- networks ------------------------------------------------------------------------------------


@each
@seeds
@settings(max_examples=4, deadline=None)
def test_macs_and_params_are_those_of_a_trace(name: str, seed: int) -> None:
    space = FOUND[name]
    arch = space.sample(1, rng=seed)[0]
    network = hwnas.build(space, arch)
    assert sum(p.numel() for p in network.parameters()) == space.params([arch])[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *network.input_shape))
    assert int(counter.get_total_flops()) // 2 == space.macs([arch])[0]


@each
@pytest.mark.parametrize("kernel_transform", [False, True])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(33, 60))
def test_supernet_equals_extract(name: str, kernel_transform: bool, seed: int, size: int) -> None:
    net = supernet(name, kernel_transform)
    arch = net.space.sample(1, rng=seed)[0]
    data = batches(net.space, size)
    statistics = hwnas.calibrate(net, arch, data)
    with torch.no_grad():
        expected = net(data[0], arch, statistics)
        found = net.extract(arch, statistics)(data[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@each
@seeds
@settings(max_examples=4, deadline=None)
def test_the_graph_computes_what_torch_computes(name: str, seed: int) -> None:
    space = FOUND[name]
    network = lively(hwnas.build(space, space.sample(1, rng=seed)[0], rng=seed), seed)
    x = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    model = onnx_model(network.operators, folded_weights(network), 2)
    with torch.no_grad():
        expected = network(x).numpy()
        # What devices of torch run: the graph's parts as a network again.
        again = unfolded_network(*parts(onnx.load_from_string(model.SerializeToString()))[:2])(x).numpy()
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], {"input": x.numpy()})[0]
    for logits in (found, again):
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@each
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own parts
def test_the_graph_equals_what_torchs_exporter_makes(name: str, tmp_path: Path) -> None:
    network = lively(hwnas.build(FOUND[name], FOUND[name].sample(1, rng=3)[0]))
    x = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "exported.onnx"
    torch.onnx.export(
        network,
        (x,),
        path,
        input_names=["input"],
        output_names=["logits"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = onnx_model(network.operators, folded_weights(network)).SerializeToString()
    exported, found = (
        onnxruntime.InferenceSession(data).run(["logits"], {"input": x.numpy()})[0]
        for data in (path.read_bytes(), graph)
    )
    np.testing.assert_allclose(found, exported, rtol=1e-4, atol=1e-4 * np.abs(exported).max())


@each
def test_a_saved_supernet_is_loaded(name: str, tmp_path: Path) -> None:
    net = supernet(name, kernel_transform=True)
    net.save(tmp_path)
    loaded = hwnas.load_supernet(tmp_path)
    assert loaded.checksum == net.checksum
    assert loaded.kernel_transform
    assert loaded.space == net.space


def used(layer: Op, module: ElasticOp) -> dict[str, tuple[slice, ...]]:
    """The part of each parameter of an elastic op that one version of it depends on, from sizes alone."""
    if isinstance(layer, Conv):
        out, per_group, kernel, _ = layer.weight_shape
        largest = module.weight("conv.weight").shape[2]
        # Through a matrix, every weight in the centre of the next larger kernel counts.
        kernel = largest if kernel == largest else module.kernels[1] if module.kernel_transform else kernel
        centre = slice((largest - kernel) // 2, (largest + kernel) // 2)
        parts = {"conv.weight": (slice(out), slice(per_group), centre, centre)}
        parts |= {f"norm.{name}": (slice(out),) for name in ("weight", "bias") if layer.norm}
        for name, parameter in module.named_parameters():
            if name.startswith("kernel_"):
                smaller = int(name.rpartition("to")[2])
                parts[name] = (slice(len(parameter) if smaller >= layer.kernel else 0),)
        return parts
    if isinstance(layer, SqueezeExcite):
        c, r = slice(layer.channels), slice(layer.reduced)
        return {"reduce.weight": (r, c), "reduce.bias": (r,), "expand.weight": (c, r), "expand.bias": (c,)}
    if isinstance(layer, Linear):
        out, features = slice(layer.out_features), slice(layer.in_features)
        return {"linear.weight": (out, features), "linear.bias": (out,)}
    return {}


@each
@pytest.mark.parametrize("kernel_transform", [False, True])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_gradients_reach_all_active_weights_and_only_those(
    name: str, kernel_transform: bool, seed: int
) -> None:
    net = supernet(name, kernel_transform)
    arch = net.space.sample(1, rng=seed)[0]
    (images,) = batches(net.space, net.space.resolution(arch), n=1)
    net.zero_grad()
    try:
        net.train()(images, arch).square().sum().backward()
    finally:
        net.eval()
    reached: set[str] = set()
    for slot, operator in net.space.lower(arch).items():
        for layer in operator.ops:
            module = net.op(slot, layer.name)
            for parameter_name, part in used(layer, module).items():
                gradient = module.get_parameter(parameter_name).grad
                if part[0].stop == 0:  # the matrix of a kernel smaller than the wanted one
                    assert gradient is None
                    continue
                where = f"{slot}.{layer.name}.{parameter_name}"
                outside = torch.ones_like(gradient, dtype=torch.bool)
                outside[part] = False
                assert not gradient[outside].any(), where
                inside = gradient[part]
                # Squeeze-and-excite's few hidden units may all be off, and a hard sigmoid may be flat.
                assert inside.any() or isinstance(layer, SqueezeExcite), where
                if isinstance(layer, Conv) and len(part) == 4:
                    assert inside.flatten(1).any(1).float().mean() > 0.5, where
                reached.add(f"slots.{slot.replace('.', '/')}.{layer.name}.{parameter_name}")
    for parameter_name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == (parameter_name in reached), parameter_name


@each
def test_every_block_of_a_new_supernet_learns(name: str) -> None:
    net = Supernet(FOUND[name]).train()
    arch = net.space.architectures((net.space.cardinalities - 1)[None])[0]
    (images,) = batches(net.space, net.space.resolution(arch), n=1)
    net(images, arch).square().sum().backward()
    for slot in net.space.lower(arch):
        layers = net.slots[slot.replace(".", "/")]
        assert any(p.grad is not None and p.grad.any() for p in layers.parameters()), slot


# ---- search and table ----------------------------------------------------------------------------


@each
def test_it_is_searched(name: str) -> None:
    space = FOUND[name]
    macs = np.sort(space.macs(space.sample(100, 0)))
    result = hwnas.search(
        space,
        objectives=[
            hwnas.Objective(
                "worth", "max", evaluate=lambda archs: space.params(archs) ** 0.1, expensive=True
            ),
            hwnas.Objective("macs", "min", evaluate=space.macs),
        ],
        constraints=[hwnas.Constraint("macs", upper=float(macs[50]))],
        strategy="nsga2",
        evaluations=40,
        seed=0,
    )
    assert len(result.evaluations) == 40
    assert all(e.metrics["macs"] <= macs[50] for e in result.evaluations)


@each
def test_it_is_profiled(name: str) -> None:
    space = small_space(name, resolutions=(32,))
    table = hwnas.profile(space, FakeDevice(), rounds=2, calibration_networks=3, held_out_networks=3)
    archs = space.sample(20, 0)
    latency, macs = table.latency_ms(archs), space.macs(archs)
    assert latency[macs.argmax()] > latency[macs.argmin()] > 0
    assert table.operators.keys() == {op.key for op in space.all_operators()}


# ---- bytes ---------------------------------------------------------------------------------------

IN_PLACE = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul", "Flatten", "Reshape")


def held_at_most(graph: onnx.GraphProto) -> int:
    """The most values that a graph holds when its nodes run in order, elementwise ones in place."""
    sizes = {value.name: int(np.prod([d.dim_value for d in value.type.tensor_type.shape.dim]))
             for value in (*graph.input, *graph.value_info, *graph.output)}  # fmt: skip
    last = {name: i for i, node in enumerate(graph.node) for name in node.input}
    alive, most = {graph.input[0].name}, 0
    for i, node in enumerate(graph.node):
        if node.op_type not in IN_PLACE:
            most = max(most, sum(sizes[name] for name in {*alive, *node.output}))
        alive = {name for name in {*alive, *node.output} if last.get(name, -1) > i}
    return most


@each
def test_bytes_are_those_of_the_graph_that_is_shipped(name: str) -> None:
    space, net = FOUND[name], supernet(name)
    archs = space.sample(6, 0)
    for arch, stored, held in zip(
        archs, space.model_bytes(archs), space.peak_activation_bytes(archs), strict=True
    ):
        data = batches(space, space.resolution(arch))
        network = net.extract(arch, hwnas.calibrate(net, arch, data))
        model = onnx.shape_inference.infer_shapes(onnx_model(network.operators, folded_weights(network)))
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        assert stored == sum(a.nbytes for a in weights if a.dtype == np.float32 and a.ndim)
        # Squeeze-and-excite has a few values on the side; a graph may make the shortcut first.
        assert held == pytest.approx(4 * held_at_most(model.graph), rel=0.02)
