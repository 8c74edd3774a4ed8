"""The channels that matter most, first: where a smaller subnet uses the first channels, it gets those."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from hwnas.networks.elastic import ElasticConv, ElasticNorm, ElasticSqueezeExcite
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Slot
from hwnas.spaces.operators import Conv, Layer, SqueezeExcite


@torch.no_grad()
def sort_channels(net: Supernet) -> None:
    """Order the inner channels of every block by the L1 norm of the weights that read them, in place.

    The largest subnet computes the same as before (https://arxiv.org/abs/1908.09791, section 3.3). Channels
    between blocks stay, since several blocks share them.
    """
    for slot in net.space.slots:
        layers = _largest_layers(net, slot)
        dense = [i for i, layer in enumerate(layers) if isinstance(layer, Conv) and not layer.depthwise]
        for i, j in itertools.pairwise(dense):
            between = layers[i + 1 : j]
            if all(isinstance(layer, (Conv, SqueezeExcite)) for layer in between):
                _sort(net, slot.name, layers[i], between, layers[j])


def _largest_layers(net: Supernet, slot: Slot) -> tuple[Layer, ...]:
    operators = [operator for operator in net.space.slot_operators(slot).values() if operator is not None]
    return max(operators, key=lambda operator: operator.params).body.path


def _sort(net: Supernet, slot: str, writes: Layer, between: Sequence[Layer], reads: Layer) -> None:
    """Order the channels that `writes` makes, `between` pass on one by one, and `reads` reads."""
    reader = net.layer(slot, reads.name)
    assert isinstance(reader, ElasticConv)
    order = reader.conv.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    reader.conv.weight.copy_(reader.conv.weight[:, order])
    for layer in (writes, *between):
        module = net.layer(slot, layer.name)
        if isinstance(module, ElasticSqueezeExcite):
            _sort_squeeze(module, order)
            continue
        assert isinstance(module, ElasticConv)
        module.conv.weight.copy_(module.conv.weight[order])
        if module.conv.bias is not None:
            module.conv.bias.copy_(module.conv.bias[order])
        if isinstance(module.norm, ElasticNorm):
            for tensor in module.norm.state_dict(keep_vars=True).values():
                tensor.copy_(tensor[order])


def _sort_squeeze(module: ElasticSqueezeExcite, order: torch.Tensor) -> None:
    """Its outer channels in the given order, its inner ones in their own."""
    assert module.reduce.bias is not None
    assert module.expand.bias is not None
    inner = module.expand.weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)
    module.reduce.weight.copy_(module.reduce.weight[inner][:, order])
    module.reduce.bias.copy_(module.reduce.bias[inner])
    module.expand.weight.copy_(module.expand.weight[order][:, inner])
    module.expand.bias.copy_(module.expand.bias[order])
