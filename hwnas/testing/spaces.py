"""Rules for search spaces: `hwnas.SearchSpace`, and `hwnas.spaces.NetworkSpace` for networks."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hwnas.latency.profiling import profile
from hwnas.networks.blocks import build_network, folded_weights, unfolded_network
from hwnas.networks.calibration import calibrate
from hwnas.networks.elastic import ElasticOp
from hwnas.networks.supernet import Supernet, load_supernet
from hwnas.ops import Conv, Linear, Op, SqueezeExcite
from hwnas.ops.base import STATISTICS
from hwnas.ops.onnx import onnx_model, parts
from hwnas.searching.loop import search
from hwnas.searching.objectives import Constraint, Objective
from hwnas.spaces import SPACES, NetworkSpace, Operator, OperatorSum, SearchSpace, space_of
from hwnas.testing.fakes import FakeDevice
from hwnas.testing.networks import input_batches, perturbed, perturbed_supernet
from hwnas.testing.rules import NotApplicable, Suite, check_rules, require


def check_space(space: SearchSpace) -> None:
    """Check that a search space keeps the rules that hwnas relies on.

    A `NetworkSpace` is also built, trained for one step, exported, profiled and searched. That takes seconds
    for small networks; give a space of large ones a low resolution for it.

    Args:
        space: The space.

    Raises:
        ConformanceError: If the space breaks a rule; the message names the rule and the values.
    """
    check_rules(SPACE_RULES, space)


suite = Suite(lambda space: space)
networks = Suite(lambda space: network_space(space))


def network_space(space: SearchSpace) -> NetworkSpace:
    """Return a space whose architectures can be built; NotApplicable for others."""
    if not isinstance(space, NetworkSpace):
        raise NotApplicable("the space is no NetworkSpace: nothing can be built")
    return space


@lru_cache(maxsize=2)
def supernet(space: NetworkSpace, kernel_transform: bool = False) -> Supernet:
    """Return a supernet in eval mode whose norms and kernel matrices do something."""
    return perturbed_supernet(space, kernel_transform=kernel_transform)


def require_close(outputs: Any, expected: Any, what: str) -> None:
    """Require that outputs differ by at most 1e-4, relative to the largest of them."""
    outputs, expected = (np.asarray(values) for values in (outputs, expected))
    require(outputs.shape == expected.shape, f"{what}: shapes {outputs.shape} and {expected.shape}.")
    scale = float(np.abs(expected).max())
    far = float((np.abs(outputs - expected) - 1e-4 * np.abs(expected)).max())
    require(far <= 1e-4 * scale, f"{what}: they differ by {far:.3g}, and the largest output is {scale:.3g}.")


# ---- choices -------------------------------------------------------------------------------------


@suite.rule
def its_definition_makes_it_again(space: SearchSpace) -> None:
    """Has a definition of plain data; that of a named space makes the space again."""
    json.dumps(space.definition)
    if space.definition["name"] not in SPACES or not isinstance(space, NetworkSpace):
        return
    again = space_of(space.definition)
    require(again == space, f"the definition makes {again.id}, not {space.id}.")
    require(again.definition == space.definition, f"the definition of the new one is {again.definition}.")


@suite.rule
def equal_values_are_equal_architectures(space: SearchSpace) -> None:
    """Canonical form is idempotent, and the values of an architecture make it again."""
    for seed in range(10):
        drawn = np.random.default_rng(seed).integers(0, space.cardinalities, (20, len(space.choices)))
        canonical = space.canonical(drawn)
        again = space.canonical(canonical)
        wrong = np.flatnonzero((again != canonical).any(axis=1))
        require(
            not len(wrong),
            f"genotype {drawn[wrong[:1]].tolist()} has the canonical form {canonical[wrong[:1]].tolist()}, "
            f"and that has {again[wrong[:1]].tolist()}.",
        )
        for arch in space.architectures(canonical[space.valid(canonical)]):
            parsed = space.architecture(arch.values)
            require(parsed == arch, f"the values of {arch} are read as {parsed}.")


@suite.rule
def samples_are_valid_and_seeded(space: SearchSpace) -> None:
    """Samples are valid, canonical and follow from the seed."""
    genotypes = space.sample(50, 3).genotypes
    require(space.valid(genotypes).all(), "a sample is not valid.")
    require((space.canonical(genotypes) == genotypes).all(), "a sample is not in canonical form.")
    require((space.sample(50, 3).genotypes == genotypes).all(), "the same seed drew other samples.")


@suite.rule
def is_searched(space: SearchSpace) -> None:
    """Is searched under a constraint that half of its architectures satisfy."""

    def size(archs: Any) -> Any:
        if isinstance(space, NetworkSpace):
            return space.macs(archs)
        return space.genotypes(archs).sum(axis=1)

    def worth(archs: Any) -> Any:
        return space.params(archs) ** 0.1 if isinstance(space, NetworkSpace) else size(archs)

    bound = float(np.median(size(space.sample(100, 0))))
    objectives = [Objective("worth", "max", worth, expensive=True), Objective("size", "min", size)]
    result = search(space, objectives, [Constraint("size", upper=bound)], "nsga2", 40)
    number = len(result.evaluations)
    fewest = 40 if space.size > 1000 else 1
    require(fewest <= number <= 40, f"{number} architectures were evaluated; 40 were asked for.")
    largest = max(e.metrics["size"] for e in result.evaluations)
    require(largest <= bound, f"a size is {largest:g}, above the bound {bound:g}.")


# ---- operators -----------------------------------------------------------------------------------


@networks.rule
def equal_networks_are_equal_architectures(space: NetworkSpace) -> None:
    """Two architectures are equal exactly if their operators are."""
    for seed in range(10):
        drawn = np.random.default_rng(seed).integers(0, space.cardinalities, (1, len(space.choices)))
        if not space.valid(canonical := space.canonical(drawn))[0]:
            continue
        single = space.architectures(canonical)[0]
        for i, choice in enumerate(space.choices):
            changed = np.array([single.genotype])
            changed[0, i] = (changed[0, i] + 1) % len(choice.values)
            changed = space.canonical(changed)
            if not space.valid(changed)[0]:
                continue
            other = space.architectures(changed)[0]
            same = space.operators(other) == space.operators(single)
            require(
                (other == single) == same,
                f"{single.values} with another {choice.name}: it is {other == single} that the architectures "
                f"are equal, and {same} that the operators are.",
            )


@networks.rule
def the_inputs_have_the_declared_size(space: NetworkSpace) -> None:
    """The choice of the size of the inputs is the size of what an architecture takes; images are square."""
    sizes = [choice for choice in space.choices if choice.name == space.size_name]
    for arch in space.sample(5, 0):
        inputs, size = space.inputs(arch), space.input_size(arch)
        require(len(inputs) > 0, f"{arch} has no input.")
        require(
            not sizes or arch.values[space.size_name] == size,
            f"{arch} has inputs of size {size}, and its {space.size_name} is "
            f"{arch.values.get(space.size_name)}.",
        )
        for spec in inputs:
            square = (spec.shape[0], size, size)
            require(not spec.is_image or spec.shape == square, f"{arch} takes {spec.shape}, not {square}.")


@networks.rule
def operators_fit_together(space: NetworkSpace) -> None:
    """Each operator reads values of its shapes, and `all_operators` has all; a chain gives classes."""
    known = set(space.all_operators())
    classes = space.operators(space.sample(1, 0)[0])[-1].out_shape
    require(not space.is_chain or len(classes) == 1, f"the last operator gives {classes}, not classes.")
    for arch in itertools.chain.from_iterable(space.sample(3, seed) for seed in range(10)):
        network = space.network(arch)  # checks names, shapes and types
        operators = space.operators(arch)
        require(
            list(network.operators) == operators, f"{arch}: network and operators have different operators."
        )
        require(
            not space.is_chain or operators[-1].out_shape == classes,
            f"{arch} gives {operators[-1].out_shape}, not {classes}.",
        )
        unknown = [operator.key for operator in operators if operator not in known]
        require(not unknown, f"{arch} has {unknown[:1]}, which all_operators has not.")


@networks.rule
def operators_are_read_from_keys(space: NetworkSpace) -> None:
    """Every operator is read back from its key."""
    for operator in space.all_operators():
        parsed = Operator.parse(operator.key)
        require(parsed == operator, f"{operator.key} is read as {parsed}.")


@networks.rule
def sums_equal_a_loop_over_operators(space: NetworkSpace) -> None:
    """MACs, parameters and any other sum, vectorised, equal a loop over operators."""
    numbers = {op.key: float(i) for i, op in enumerate(space.all_operators())}
    sums: dict[str, tuple[Callable[[Any], Any], Callable[[Operator], float]]] = {
        "macs": (space.macs, lambda op: op.macs),
        "params": (space.params, lambda op: op.params),
        "numbers": (OperatorSum(space, lambda op: numbers[op.key]), lambda op: numbers[op.key]),
    }
    for seed in range(10):
        archs = space.sample(4, seed)
        for name, (vectorised, value) in sums.items():
            totals = vectorised(archs).tolist()
            expected = [sum(value(op) for op in space.operators(arch)) for arch in archs]
            require(totals == expected, f"{name} are {totals}, and by operators {expected}.")


# ---- networks ------------------------------------------------------------------------------------


@networks.rule
def macs_and_params_are_those_of_a_trace(space: NetworkSpace) -> None:
    """MACs and parameters are those that torch counts in the built network."""
    for seed in range(4):
        arch = space.sample(1, rng=seed)[0]
        network = build_network(space, arch)
        counted = sum(p.numel() for p in network.parameters())
        params = space.params([arch])[0]
        require(counted == params, f"{arch} has {counted} parameters, the space says {params:.0f}.")
        (inputs,) = input_batches(space, arch, n=1, samples=1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(inputs)
        macs, traced = space.macs([arch])[0], int(counter.get_total_flops()) // 2
        require(macs == traced, f"{arch} takes {traced} multiply-accumulates, the space says {macs:.0f}.")


@networks.each({"centres": False, "matrices": True})
def the_supernet_equals_the_extracted_network(space: NetworkSpace, kernel_transform: bool) -> None:
    """A subnet in the supernet and the network extracted for it compute the same."""
    net = supernet(space, kernel_transform)
    for seed in range(4):
        arch = space.sample(1, rng=seed)[0]
        data = input_batches(space, arch)
        statistics = calibrate(net, arch, data)
        with torch.no_grad():
            expected = net(data[0], arch, statistics)
            require_close(net.extract(arch, statistics)(data[0]), expected, str(arch))


@networks.rule
def the_graph_computes_what_torch_computes(space: NetworkSpace) -> None:
    """The ONNX graph, and the network that is read back from it, compute what the network computes."""
    for seed in range(4):
        arch = space.sample(1, rng=seed)[0]
        network = perturbed(build_network(space, arch, rng=seed), seed)
        (x,) = input_batches(space, arch, n=1, samples=2, seed=seed)
        model = onnx_model(network.network, folded_weights(network), 2).SerializeToString()
        with torch.no_grad():
            expected = network(x)
            again = unfolded_network(*parts(onnx.load_from_string(model))[:2])(x)
        session = onnxruntime.InferenceSession(model)
        require_close(
            session.run(["logits"], {name: tensor.numpy() for name, tensor in x.items()})[0],
            expected,
            "ONNX Runtime and torch",
        )
        require_close(again, expected, "the network that is read from the graph and the first one")


@networks.rule
def a_saved_supernet_is_loaded(space: NetworkSpace) -> None:
    """A supernet that is saved and loaded is the same."""
    net = supernet(space, kernel_transform=True)
    with tempfile.TemporaryDirectory() as folder:
        net.save(folder)
        own = None if space.definition["name"] in SPACES else space
        loaded = load_supernet(folder, own)
    require(loaded.checksum == net.checksum, f"the checksum is {loaded.checksum}, not {net.checksum}.")
    require(loaded.kernel_transform, "kernel_transform is lost.")
    require(loaded.space == space, f"the space is {loaded.space.id}, not {space.id}.")


Parts = dict[str, tuple[slice, ...]]  # part of each parameter, by name


def used(op: Op, module: ElasticOp) -> Parts:
    """Return the part of each parameter of an elastic op that one version of it depends on.

    For the ops of hwnas it follows from sizes alone, for others from the axes of their weights.
    """
    if isinstance(op, Conv):
        channels, per_group, kernel, _ = op.weight_shape
        out = slice(channels)
        largest = module.weight("conv.weight").shape[2]
        # Through a matrix, every weight in the centre of the next larger kernel counts.
        kernel = largest if kernel == largest else module.kernels[1] if module.kernel_transform else kernel
        centre = slice((largest - kernel) // 2, (largest + kernel) // 2)
        weights: Parts = {"conv.weight": (out, slice(per_group), centre, centre)}
        weights |= {f"norm.{name}": (out,) for name in ("weight", "bias") if op.norm}
        for name, parameter in module.named_parameters():
            if name.startswith("kernel_"):
                smaller = int(name.rpartition("to")[2])
                weights[name] = (slice(len(parameter) if smaller >= op.kernel else 0),)
        return weights
    if isinstance(op, SqueezeExcite):
        c, r = slice(op.channels), slice(op.reduced)
        return {"reduce.weight": (r, c), "reduce.bias": (r,), "expand.weight": (c, r), "expand.bias": (c,)}
    if isinstance(op, Linear):
        out, features = slice(op.out_features), slice(op.in_features)
        return {"linear.weight": (out, features), "linear.bias": (out,)}
    cuts: Parts = {}
    for name, spec in op.weights().items():
        if name not in STATISTICS:
            sizes = zip(spec.axes, spec.shape, module.weight(name).shape, strict=True)
            starts = [(axis == "kernel") * (largest - size) // 2 for axis, size, largest in sizes]
            ends = [start + size for start, size in zip(starts, spec.shape, strict=True)]
            cuts[f"{op.scope}{name}"] = tuple(map(slice, starts, ends))
    return cuts


@networks.each({"centres": False, "matrices": True})
def gradients_reach_all_active_weights(space: NetworkSpace, kernel_transform: bool) -> None:
    """Gradients of a subnet reach all weights that it uses, and no others."""
    net = supernet(space, kernel_transform)
    for seed in range(3):
        arch = space.sample(1, rng=seed)[0]
        (inputs,) = input_batches(space, arch, n=1)
        net.zero_grad()
        try:
            net.train()(inputs, arch).square().sum().backward()
        finally:
            net.eval()
        reached: set[str] = set()
        for slot, operator in space.lower(arch).items():
            reached.update(_reached(net, slot, operator.ops))
        for name, parameter in net.named_parameters():
            has = parameter.grad is not None
            require(has == (name in reached), f"{arch}: {name} has {'a' if has else 'no'} gradient.")
        net.zero_grad()


def _reached(net: Supernet, slot: str, ops: Iterable[Op]) -> list[str]:
    """Return the names of the parameters of a slot that its ops use; check the parts that they use."""
    names = []
    for op in ops:
        module = net.op(slot, op.name)
        for name, part in used(op, module).items():
            where = f"{slot}.{op.name}.{name}"
            gradient: Tensor | None = module.get_parameter(name).grad
            if part and part[0].stop == 0:  # the matrix of a kernel smaller than the used one
                require(gradient is None, f"{where} has a gradient, and its kernel is not used.")
                continue
            require(gradient is not None, f"{where} has no gradient.")
            assert gradient is not None
            outside = torch.ones_like(gradient, dtype=torch.bool)
            outside[part] = False
            require(not gradient[outside].any(), f"{where} has a gradient outside of the used part {part}.")
            inside = gradient[part]
            # The few hidden units of squeeze-and-excite may all be off, and a hard sigmoid may be flat.
            require(
                inside.any() or isinstance(op, SqueezeExcite),
                f"{where} has no gradient in the used part {part}.",
            )
            if isinstance(op, Conv) and len(part) == 4:
                share = float(inside.flatten(1).any(1).float().mean())
                require(share > 0.5, f"{where} has a gradient in a share of {share:.2f} of its channels.")
            names.append(f"slots.{slot.replace('.', '/')}.{op.name}.{name}")
    return names


@networks.rule
def every_block_of_a_new_supernet_learns(space: NetworkSpace) -> None:
    """Gradients reach every slot of a new supernet, residual blocks included."""
    net = Supernet(space).train()
    arch = space.architectures((space.cardinalities - 1)[None])[0]
    (inputs,) = input_batches(space, arch, n=1)
    net(inputs, arch).square().sum().backward()
    for slot in space.lower(arch):
        parameters = list(net.slots[slot.replace(".", "/")].parameters())
        learns = any(p.grad is not None and p.grad.any() for p in parameters)
        require(learns or not parameters, f"no gradient reaches {slot}.")


# ---- table ---------------------------------------------------------------------------------------


@networks.rule
def is_profiled(space: NetworkSpace) -> None:
    """Is profiled; the latency table has all operators, and more work has a higher latency."""
    table = profile(space, FakeDevice(), rounds=2, calibration_networks=3, held_out_networks=3)
    archs = space.sample(20, 0)
    latency, macs = table.latency_ms(archs), space.macs(archs)
    most, least = latency[macs.argmax()], latency[macs.argmin()]
    require(most > least > 0, f"the most MACs take {most:.4g} ms, the fewest {least:.4g} ms.")
    keys = {op.key for op in space.all_operators()}
    require(table.operators.keys() == keys, f"{len(keys ^ table.operators.keys())} keys differ.")


# ---- bytes ---------------------------------------------------------------------------------------

IN_PLACE = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul", "Flatten", "Reshape", "Unsqueeze")


def peak_values(graph: onnx.GraphProto) -> int:
    """Return the most values that a graph holds when its nodes run in order, elementwise ones in place."""
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {v.name: int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim])) for v in values}
    last = {name: i for i, node in enumerate(graph.node) for name in node.input}
    alive, most = {value.name for value in graph.input}, 0
    for i, node in enumerate(graph.node):
        if node.op_type not in IN_PLACE:
            most = max(most, sum(sizes[name] for name in {*alive, *node.output}))
        alive = {name for name in {*alive, *node.output} if last.get(name, -1) > i}
    return most


@networks.rule
def bytes_are_those_of_the_shipped_graph(space: NetworkSpace) -> None:
    """The bytes of weights and the peak of activations are those of the ONNX graph."""
    net, archs = supernet(space), space.sample(6, 0)
    stored, peaks = space.model_bytes(archs), space.peak_activation_bytes(archs)
    for arch, weight_bytes, peak in zip(archs, stored, peaks, strict=True):
        data = input_batches(space, arch)
        network = net.extract(arch, calibrate(net, arch, data))
        model = onnx.shape_inference.infer_shapes(onnx_model(network.network, folded_weights(network)))
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        shipped = sum(a.nbytes for a in arrays if a.dtype == np.float32 and a.ndim)
        require(
            weight_bytes == shipped, f"{arch} has {shipped} bytes of weights, the space says {weight_bytes}."
        )
        # Squeeze-and-excite has a few values on the side; a graph may make the shortcut first.
        held = 4 * peak_values(model.graph)
        require(
            abs(peak - held) <= 0.02 * held, f"{arch} holds {held} bytes at its peak, the space says {peak}."
        )


SPACE_RULES = (*suite.rules, *networks.rules)
