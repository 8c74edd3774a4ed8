"""Sort channels by importance, so that smaller subnets, which use the first channels, use the best ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hwnas.networks.base import ElasticWeights
from hwnas.networks.elastic import ElasticOp
from hwnas.ops.base import Op
from hwnas.ops.graph import Graph, Node
from hwnas.spaces import NetworkSpace, Slot

# Numbers of channels, ascending, by the names of an op and of an axis.
Counts = Mapping[tuple[str, str], Sequence[int]]


@torch.no_grad()
def sort_channels(net: ElasticWeights, opened: Sequence[Sequence[int]] | None = None) -> None:
    """Order the inner channels of every block by the L1 norm of the weights that read them, in place.

    `opened` are, by choice of the space, the positions of the values that subnets have been trained with;
    None stands for the largest subnet alone. What those subnets use first stays first, sorted within itself,
    so that they compute the same as before (https://arxiv.org/abs/1908.09791, section 3.3). Before its second
    phase of expansions the paper's code, https://github.com/mit-han-lab/once-for-all, sorts so too; only the
    inner channels of squeeze-and-excite it sorts as a whole, which changes subnets that are open. Channels
    between blocks stay, since several blocks share them.
    """
    for slot in net.space.slots:
        graph, counts = _largest_graph(net.space, slot), _counts(net.space, slot, opened)
        for writer in graph.nodes:
            between, reader = _readers(graph, writer)
            if reader is not None:
                _sort(net, slot.name, writer.op, between, reader, counts)


def _largest_graph(space: NetworkSpace, slot: Slot) -> Graph:
    operators = [operator for operator in space.slot_operators(slot).values() if operator is not None]
    return max(operators, key=lambda operator: operator.params).graph


def _axes(op: Op) -> set[str]:
    return {axis for spec in op.weights().values() for axis in spec.axes}


def _readers(graph: Graph, writer: Node) -> tuple[list[Op], Op | None]:
    """Return the ops that pass the channels of `writer` on one by one, and the op that reads them.

    The second is None if the op writes no channels of its own, or several ops, or one of several inputs, use
    them.
    """
    between: list[Op] = []
    name = writer.op.name
    while "out" in _axes(writer.op):
        users = [node for node in graph.nodes if name in node.inputs]
        if len(users) != 1 or len(users[0].inputs) != 1:
            break
        axes = _axes(users[0].op)
        if "in" in axes:
            return between, users[0].op
        if "through" not in axes:
            break
        between.append(users[0].op)
        name = users[0].op.name
    return between, None


def _counts(space: NetworkSpace, slot: Slot, opened: Sequence[Sequence[int]] | None) -> Counts:
    """Return the sizes of the axes "out" and "hidden" in the versions that are open, in order."""
    sizes: dict[tuple[str, str], set[int]] = {}
    columns = [space.index(name) for name in slot.choices]
    graphs = [_largest_graph(space, slot)]
    for index, operator in space.slot_operators(slot).items():
        if opened is None or operator is None:
            continue
        if all(i in opened[column] for i, column in zip(index, columns, strict=True)):
            graphs.append(operator.graph)
    for op in itertools.chain.from_iterable(graph.ops for graph in graphs):
        for spec in op.weights().values():
            for axis, size in zip(spec.axes, spec.shape, strict=True):
                if axis in ("out", "hidden"):
                    sizes.setdefault((op.name, axis), set()).add(size)
    return {key: sorted(values) for key, values in sizes.items()}


def _order(importance: Tensor, counts: Sequence[int]) -> Tensor:
    """Return positions by falling importance, within the first of the counts, then up to the next, and so on.

    Args:
        importance: (c,) importance of each channel.
        counts: Ascending numbers of channels, the last of which is c.

    Returns:
        (c,) positions.
    """
    parts = [
        start + importance[start:end].argsort(descending=True, stable=True)
        for start, end in itertools.pairwise([0, *counts])
    ]
    return torch.cat(parts)


def _sort(
    net: ElasticWeights, slot: str, writer: Op, between: Sequence[Op], reader: Op, counts: Counts
) -> None:
    """Order the channels that `writer` writes, `between` pass on, and `reader` reads."""
    order = _order(_importance(net.op(slot, reader.name), "in"), counts[writer.name, "out"])
    _permute(net.op(slot, reader.name), "in", order)
    _permute(net.op(slot, writer.name), "out", order)
    for op in between:
        module = net.op(slot, op.name)
        if "hidden" in _axes(op):
            hidden = _order(_importance(module, "hidden"), counts[op.name, "hidden"])
            _permute(module, "hidden", hidden)
        _permute(module, "through", order)


def _importance(module: ElasticOp, axis: str) -> Tensor:
    """Return the L1 norm, (c,), of the weights that read each channel of an axis."""
    weights = [module.weight(name).abs() for name, s in module.specs.items() if s.axes[1:2] == (axis,)]
    norms = [weight.sum([dim for dim in range(weight.dim()) if dim != 1]) for weight in weights]
    return torch.stack(norms).sum(0)


def _permute(module: ElasticOp, axis: str, order: Tensor) -> None:
    """Bring the channels of an axis into an order in all weights of an op, in place."""
    for name, spec in module.specs.items():
        for dim, meaning in enumerate(spec.axes):
            if meaning == axis:
                module.weight(name).copy_(module.weight(name).index_select(dim, order))
