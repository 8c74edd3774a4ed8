from __future__ import annotations

import pytest
import torch

from hwnas.errors import SpaceError
from hwnas.networks.elastic import ElasticOp
from hwnas.ops import Conv, MaxPool, SqueezeExcite


def test_a_layer_is_as_large_as_the_largest_of_each_dimension() -> None:
    layer = ElasticOp("slot.c", [Conv("c", 8, 24, 3), Conv("c", 16, 8, 5)])
    assert layer.weight("conv.weight").shape == (24, 16, 5, 5)


def test_a_slice_is_the_first_channels_and_the_centre_of_the_kernel() -> None:
    layer = ElasticOp("slot.c", [Conv("c", 4, 6, 5)])
    largest = layer.weight("conv.weight")
    with torch.no_grad():
        largest.copy_(torch.arange(6 * 4 * 25.0).reshape(6, 4, 5, 5))
    part = layer.cut(Conv("c", 2, 3, 3))
    assert torch.equal(part["conv.weight"], largest[:3, :2, 1:4, 1:4])
    assert part["norm.weight"].shape == (3,)


def test_kernel_matrices_start_as_the_centre_and_are_chained() -> None:
    layers = [Conv("c", 4, 4, kernel, depthwise=True) for kernel in (3, 5, 7)]
    layer = ElasticOp("slot.c", layers, kernel_transform=True)
    plain = ElasticOp("slot.c", layers)

    def kernel(elastic: ElasticOp, size: int) -> torch.Tensor:
        return elastic.cut(Conv("c", 3, 3, size, depthwise=True))["conv.weight"]

    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("kernel_")})
    for size in (3, 5, 7):
        assert torch.equal(kernel(layer, size), kernel(plain, size))
    first, second = layer.get_parameter("kernel_7to5"), layer.get_parameter("kernel_5to3")
    with torch.no_grad():
        first.copy_(torch.randn(25, 25))
        second.copy_(torch.randn(9, 9))
    largest = layer.weight("conv.weight")
    for channel in range(3):
        five = (first @ largest[channel, 0, 1:6, 1:6].reshape(25)).reshape(5, 5)
        three = (second @ five[1:4, 1:4].reshape(9)).reshape(3, 3)
        torch.testing.assert_close(kernel(layer, 5)[channel, 0], five)
        torch.testing.assert_close(kernel(layer, 3)[channel, 0], three)
    assert torch.equal(kernel(layer, 7), largest[:3])


def test_layers_that_differ_in_more_than_size_are_refused() -> None:
    with pytest.raises(SpaceError, match="c differs in more than size"):
        ElasticOp("slot.c", [Conv("c", 8, 8, activation="relu"), Conv("c", 8, 8, activation="hswish")])
    with pytest.raises(SpaceError, match="differs in more than size"):
        ElasticOp("slot.c", [Conv("c", 8, 8), SqueezeExcite("c", 8, 8)])
    with pytest.raises(SpaceError, match="differs in more than size"):
        ElasticOp("slot.c", [MaxPool("c", 3, 2), MaxPool("c", 5, 2)])
