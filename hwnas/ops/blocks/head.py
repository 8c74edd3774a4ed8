"""Heads: from the last feature map to the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.ops.conv import Conv
from hwnas.ops.graph import Graph
from hwnas.ops.linear import Linear
from hwnas.ops.pool import GlobalPool

if TYPE_CHECKING:
    from hwnas.ops.base import Op
    from hwnas.ops.operator import Operator


def head(op: Operator) -> Graph:
    """1×1 convolution to `mid`, mean, 1×1 convolution to `feat` (0: none), linear. MobileNetV3's."""
    activation, mid, features = str(op["act"]), op.integer("mid"), op.integer("feat")
    ops: list[Op] = [Conv("expand", op.in_shape[0], mid, activation=activation), GlobalPool("pool")]
    if features:
        ops.append(Conv("mix", mid, features, norm=False, activation=activation))
    ops.append(Linear("classifier", features or mid, op.out_shape[0]))
    return Graph.chain(op.in_shape, ops)


def classifier(op: Operator) -> Graph:
    """Mean, linear. ResNet's head; no attributes."""
    return Graph.chain(
        op.in_shape, [GlobalPool("pool"), Linear("classifier", op.in_shape[0], op.out_shape[0])]
    )
