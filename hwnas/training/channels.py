"""The channels that matter most, first: where a smaller subnet uses the first channels, it gets those."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hwnas.networks.elastic import ElasticConv, ElasticNorm, ElasticSqueezeExcite
from hwnas.networks.supernet import Supernet
from hwnas.spaces import NetworkSpace, Slot
from hwnas.spaces.operators import Conv, Layer, SqueezeExcite


@torch.no_grad()
def sort_channels(net: Supernet, opened: Sequence[Sequence[int]] | None = None) -> None:
    """Order the inner channels of every block by the L1 norm of the weights that read them, in place.

    `opened` are, by choice of the space, the positions of the values that subnets have been trained with;
    None stands for the largest subnet alone. What those subnets use first stays first, sorted within itself,
    so that they compute the same as before (https://arxiv.org/abs/1908.09791, section 3.3). Before its second
    phase of expansions the paper's code, https://github.com/mit-han-lab/once-for-all, sorts so too; only the
    inner channels of squeeze-and-excite it sorts as a whole, which changes subnets that are open. Channels
    between blocks stay, since several blocks share them.
    """
    for slot in net.space.slots:
        layers, counts = _largest_layers(net.space, slot), _counts(net.space, slot, opened)
        dense = [i for i, layer in enumerate(layers) if isinstance(layer, Conv) and not layer.depthwise]
        for i, j in itertools.pairwise(dense):
            between = layers[i + 1 : j]
            if all(isinstance(layer, (Conv, SqueezeExcite)) for layer in between):
                _sort(net, slot.name, layers[i], between, layers[j], counts)


def _largest_layers(space: NetworkSpace, slot: Slot) -> tuple[Layer, ...]:
    operators = [operator for operator in space.slot_operators(slot).values() if operator is not None]
    return max(operators, key=lambda operator: operator.params).body.path


def _counts(space: NetworkSpace, slot: Slot, opened: Sequence[Sequence[int]] | None) -> dict[str, list[int]]:
    """By layer, how many channels it makes (or squeezes to) in the versions that are open, in order."""
    found = {layer.name: {_count(layer)} for layer in _largest_layers(space, slot)}
    columns = [space.index(name) for name in slot.choices]
    for index, operator in space.slot_operators(slot).items():
        if opened is None or operator is None:
            continue
        if all(i in opened[column] for i, column in zip(index, columns, strict=True)):
            for layer in operator.body.path:
                found.setdefault(layer.name, set()).add(_count(layer))
    return {name: sorted(counts) for name, counts in found.items()}


def _count(layer: Layer) -> int:
    match layer:
        case Conv():
            return layer.out_channels
        case SqueezeExcite():
            return layer.reduced
        case _:
            return 0


def _order(importance: Tensor, counts: Sequence[int]) -> Tensor:
    """Positions by falling importance, within the first of the counts, then up to the next, and so on."""
    parts = [
        start + importance[start:end].argsort(descending=True, stable=True)
        for start, end in itertools.pairwise([0, *counts])
    ]
    return torch.cat(parts)


def _sort(
    net: Supernet,
    slot: str,
    writes: Layer,
    between: Sequence[Layer],
    reads: Layer,
    counts: Mapping[str, Sequence[int]],
) -> None:
    """Order the channels that `writes` makes, `between` pass on one by one, and `reads` reads."""
    reader = net.layer(slot, reads.name)
    assert isinstance(reader, ElasticConv)
    order = _order(reader.conv.weight.abs().sum((0, 2, 3)), counts[writes.name])
    reader.conv.weight.copy_(reader.conv.weight[:, order])
    for layer in (writes, *between):
        module = net.layer(slot, layer.name)
        if isinstance(module, ElasticSqueezeExcite):
            _sort_squeeze(module, order, counts[layer.name])
            continue
        assert isinstance(module, ElasticConv)
        module.conv.weight.copy_(module.conv.weight[order])
        if module.conv.bias is not None:
            module.conv.bias.copy_(module.conv.bias[order])
        if isinstance(module.norm, ElasticNorm):
            for tensor in module.norm.state_dict(keep_vars=True).values():
                tensor.copy_(tensor[order])


def _sort_squeeze(module: ElasticSqueezeExcite, order: Tensor, counts: Sequence[int]) -> None:
    """Its outer channels in the given order, its inner ones in their own."""
    assert module.reduce.bias is not None
    assert module.expand.bias is not None
    inner = _order(module.expand.weight.abs().sum((0, 2, 3)), counts)
    module.reduce.weight.copy_(module.reduce.weight[inner][:, order])
    module.reduce.bias.copy_(module.reduce.bias[inner])
    module.expand.weight.copy_(module.expand.weight[order][:, inner])
    module.expand.bias.copy_(module.expand.bias[order])
