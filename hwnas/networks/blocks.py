"""Plain networks: the static module of each op and operator, and networks made of them.

Modules have fixed shapes. `Supernet.extract` fills them, users deploy them, and ONNX graphs are checked
against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.errors import DataError, SpaceError
from hwnas.ops.base import RUNNING_VAR, STATISTICS, Op, WeightSpec
from hwnas.ops.network import InputSpec, Network, as_network
from hwnas.ops.operator import Operator
from hwnas.spaces import Architecture, NetworkSpace
from hwnas.spaces.base import Rng

MOMENTUM = 0.1  # share by which running statistics move in training, as in torch's batch norm
BATCHES_TRACKED = "norm.num_batches_tracked"  # torch's batch norm stores a count, which has no use here

# The inputs of a network: one tensor, tensors in the declared order, or tensors by name; each (batch, …).
Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def register_weight(module: nn.Module, name: str, tensor: Tensor, trained: bool = True) -> None:
    """Register a parameter or a buffer of a dotted name, with empty modules on the way to it.

    Raises:
        SpaceError: If the name is that of an attribute of the module.
    """
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    if hasattr(type(module), last):
        raise SpaceError(
            f"a weight of an op cannot be called {name!r}; choose another name, or give the op a scope, such "
            "as 'own.'"
        )
    if trained:
        module.register_parameter(last, nn.Parameter(tensor))
    else:
        module.register_buffer(last, tensor)


class OpModule(nn.Module):
    """A static op: its weights, and its torch function applied to them.

    In training mode batch norm uses the statistics of the batch and moves the running ones.
    """

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op = op
        self.set_weights({name: empty_weight(spec) for name, spec in op.weights().items()})
        if any(name == RUNNING_VAR for name, _, _ in self._places):
            register_weight(self, BATCHES_TRACKED, torch.tensor(0), trained=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.op.forward(self.weights(), *inputs, momentum=MOMENTUM if self.training else 0.0)

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and batch-norm statistics by the names of `Op.weights`."""
        return {name: getattr(module, last) for name, module, last in self._places}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take tensors as the weights, by the names of `Op.weights`."""
        self._places: list[tuple[str, nn.Module, str]] = []
        for name, tensor in weights.items():
            register_weight(self, name, tensor, trained=name not in STATISTICS)
            parent, _, last = name.rpartition(".")
            self._places.append((name, self.get_submodule(parent), last))


def empty_weight(spec: WeightSpec) -> Tensor:
    """Return a tensor of a specification: its constant first value, or zeros."""
    return torch.full(spec.shape, spec.initial or 0.0)


class OperatorModule(nn.Module):
    """The ops of an operator, each a submodule of the op's name, connected as its graph says."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.graph = operator.graph
        for op in self.graph.ops:
            self.add_module(op.name, OpModule(op))

    def op_modules(self) -> Iterator[tuple[str, OpModule]]:
        """Yield the name and the module of each op, in the order in which they run."""
        for name, module in self.named_children():
            yield name, cast(OpModule, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        for node in self.graph.nodes:
            module = self.get_submodule(node.op.name)
            values[node.op.name] = module(*(values[name] for name in node.inputs))
        return values[self.graph.nodes[-1].op.name]


class StaticNetwork(nn.Module):
    """One architecture as a plain network in single precision: a module of each operator, connected.

    Attributes:
        network: The operators, their connections and the inputs.
        operators: The operators in the order in which they run.
        blocks: One module an operator.
    """

    def __init__(self, network: Network | Iterable[Operator]) -> None:
        """Make the modules of a network, or of operators that form a chain."""
        super().__init__()
        self.network = as_network(network).with_precision("fp32")
        self.operators = self.network.operators
        self.blocks = nn.ModuleList([OperatorModule(operator) for operator in self.operators])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input, such as (channels, height, width); other sizes are accepted."""
        return self.network.inputs[0].shape

    def forward(self, x: Inputs, *further: Tensor) -> Tensor:
        """Compute the result, such as logits (batch, classes).

        Args:
            x: The first input, such as images (batch, channels, height, width), or all inputs in a sequence
                or a mapping by name.
            *further: The other inputs in the declared order.

        Returns:
            The output of the last operator, (batch, …).

        Raises:
            DataError: For inputs of other names, or more or fewer of them.
        """
        named = named_inputs(self.network.inputs, (cast(Tensor, x), *further) if further else x)
        return self.network.evaluate(named, lambda place, *values: cast(Tensor, self.blocks[place](*values)))


def named_inputs(specs: Sequence[InputSpec], inputs: Inputs) -> dict[str, Tensor]:
    """Return the inputs of a network by name.

    Args:
        specs: The inputs that the network declares.
        inputs: One tensor, tensors in the declared order, or tensors by name.

    Returns:
        A tensor for each declared input.

    Raises:
        DataError: For inputs of other names, or more or fewer of them.
    """
    names = [spec.name for spec in specs]
    if isinstance(inputs, Mapping):
        if inputs.keys() != set(names):
            got = ", ".join(map(str, inputs)) or "none"
            raise DataError(f"the inputs of the network are {', '.join(names)}, got {got}")
        return dict(inputs)
    values = list(inputs) if isinstance(inputs, list | tuple) else [cast(Tensor, inputs)]
    if len(values) != len(names):
        raise DataError(f"the network has {len(names)} inputs ({', '.join(names)}), got {len(values)}")
    return dict(zip(names, values, strict=True))


def operator_modules(network: StaticNetwork) -> list[OperatorModule]:
    """Return the module of each operator of a network, in order."""
    return [cast(OperatorModule, block) for block in network.blocks]


def build_network(space: NetworkSpace, arch: Architecture, rng: Rng = 0) -> StaticNetwork:
    """An architecture as a plain network in eval mode, untrained, with He-scale weights drawn by `rng`.

    SpaceError if the architecture is not one of this space.
    """
    network = StaticNetwork(space.network(arch))
    generator = torch_generator(rng)
    for block in operator_modules(network):
        for _, module in block.op_modules():
            initialise(module.weights(), module.op, generator)
    return network.eval()


def folded_weights(network: StaticNetwork) -> list[dict[str, NDArray[np.float32]]]:
    """The weights of a network in eval mode with batch norm folded into convolutions, a dict an operator.

    Names: ``<layer>.weight`` and ``<layer>.bias`` of convolutions, (out, in per group, k, k) and (out,),
    and of linear layers, (out, in) and (out,); ``<layer>.reduce.weight`` … ``<layer>.expand.bias`` of
    squeeze-and-excite.
    """
    return [
        {
            f"{layer}.{name}": tensor.detach().to("cpu", torch.float32).contiguous().numpy().copy()
            for layer, module in block.op_modules()
            for name, tensor in module.op.fold(module.weights()).items()
        }
        for block in operator_modules(network)
    ]


def unfolded_network(
    network: Network | Sequence[Operator], weights: Sequence[Mapping[str, NDArray[np.float32]]]
) -> StaticNetwork:
    """The network in eval mode that has these folded weights, one mapping an operator; see `folded_weights`.

    Batch norms are there, as in any static network, and change nothing but by their bias.
    """
    static = StaticNetwork(network).eval()
    for block, given in zip(operator_modules(static), weights, strict=True):
        for layer, module in block.op_modules():
            own = {
                name.removeprefix(f"{layer}."): torch.from_numpy(array.copy())
                for name, array in given.items()
                if name.startswith(f"{layer}.")
            }
            module.set_weights(module.op.unfold(own))
    return static


# ---- drawing weights ------------------------------------------------------------------------------


def torch_generator(rng: Rng) -> torch.Generator:
    """A local torch generator, seeded from an integer or by a draw from a numpy generator."""
    return torch.Generator().manual_seed(int(np.random.default_rng(rng).integers(2**63)))


@torch.no_grad()
def initialise(weights: Mapping[str, Tensor], op: Op, generator: torch.Generator) -> None:
    """Set the first values of an op's weights in place, as their specifications say.

    Weights without a constant first value are normal such that they keep the variance of the op's input
    (https://arxiv.org/abs/1502.01852); biases are zero.

    Args:
        weights: Tensors by the names of `Op.weights`, of any sizes.
        op: The op, or one version of it.
        generator: Source of the random numbers.
    """
    for name, spec in op.weights().items():
        tensor = weights[name]
        if spec.initial is not None:
            tensor.fill_(spec.initial)
        elif tensor.dim() > 1:
            tensor.normal_(0.0, (op.gain / tensor[0].numel()) ** 0.5, generator=generator)
        else:
            tensor.zero_()
