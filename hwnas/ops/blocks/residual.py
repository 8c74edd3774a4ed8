"""ResNet's blocks, whose activation follows the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.ops.conv import Conv
from hwnas.ops.graph import Graph
from hwnas.ops.pool import AveragePool

if TYPE_CHECKING:
    from hwnas.ops.operator import Operator


def basic(op: Operator) -> Graph:
    """Two k×k and the sum, then activation, https://arxiv.org/abs/1512.03385. Attributes mid, k, act."""
    activation, mid, kernel = str(op["act"]), op.integer("mid"), op.integer("k")
    first = Conv("first", op.in_shape[0], mid, kernel, activation=activation)
    second = Conv("second", mid, op.out_shape[0], kernel)
    return Graph.residual(op.in_shape, [first, second], activation=activation)


def bottleneck(op: Operator) -> Graph:
    """1×1, k×k, 1×1, and the activation after the sum, https://arxiv.org/abs/1512.03385.

    Attributes mid, k, s, act, res. Where res is 0, the shortcut is the mean of each s×s of the input through
    a 1×1 convolution (ResNet-D, https://arxiv.org/abs/1812.01187).
    """
    activation, mid, stride = str(op["act"]), op.integer("mid"), op.integer("s")
    channels, out = op.in_shape[0], op.out_shape[0]
    path = [
        Conv("reduce", channels, mid, activation=activation),
        Conv("conv", mid, mid, op.integer("k"), stride, activation=activation),
        Conv("expand", mid, out),
    ]
    pool = [AveragePool("pool", stride)] if stride > 1 else []
    shortcut = [] if op["res"] else [*pool, Conv("downsample", channels, out)]
    return Graph.residual(op.in_shape, path, shortcut, activation)
