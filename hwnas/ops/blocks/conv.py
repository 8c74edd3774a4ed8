"""Blocks of one convolution: stems and plain layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.ops.blocks.joined import chain_or_residual
from hwnas.ops.conv import Conv
from hwnas.ops.graph import Graph
from hwnas.ops.pool import MaxPool

if TYPE_CHECKING:
    from hwnas.ops.operator import Operator


def conv(op: Operator) -> Graph:
    """One convolution, batch norm, activation. Attributes k, s, act; res:1 where the input is added."""
    kernel, stride, activation = op.integer("k"), op.integer("s"), str(op["act"])
    layer = Conv("conv", op.in_shape[0], op.out_shape[0], kernel, stride, activation=activation)
    return chain_or_residual(op, [layer])


def convpool(op: Operator) -> Graph:
    """A convolution of stride 1, then the largest of each 3×3 at stride 2. Attributes k, act."""
    layer = Conv("conv", op.in_shape[0], op.out_shape[0], op.integer("k"), activation=str(op["act"]))
    return Graph.chain(op.in_shape, [layer, MaxPool("pool", 3, 2)])
